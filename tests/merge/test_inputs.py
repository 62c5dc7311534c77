"""Models in any format are merged like plain ones, and read in pieces that are those of the whole tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import steelyard as sy
from merge.siblings import weights, wide
from steelyard.edits.merge.inputs import StoredModel
from steelyard.formats.logical import LogicalCheckpoint

PART = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def quantized(family: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as 4-bit integers and as blocks of GGUF."""
    folder = tmp_path_factory.mktemp("quantized")
    sy.quantize(family / "one", out=folder / "integers", bits=4, group_size=32, rounding="rtn", data="none")
    sy.convert(family / "one", out=folder / "gguf", format="gguf", type="Q8_0", requantize=True)
    return {"integers": folder / "integers", "gguf": folder / "gguf"}


@pytest.mark.parametrize("name", ["integers", "gguf"])
def test_pieces_are_those_of_the_whole_tensor(quantized: dict[str, Path], name: str) -> None:
    with LogicalCheckpoint.open(quantized[name]) as logical:
        whole = logical.tensor(PART).reshape(-1)
    model = StoredModel.open(str(quantized[name]))
    read = model.reader(PART)
    for start, stop in [(0, whole.size), (0, 1), (100, 129), (127, 3000), (whole.size - 5, whole.size)]:
        assert np.array_equal(read(start, stop), whole[start:stop])
    assert (model.resident(PART) < 4 * whole.size) == (name == "integers")
    model.close()


def test_models_of_any_format_are_merged(quantized: dict[str, Path], family: Path, tmp_path: Path) -> None:
    models = [{"model": str(path)} for path in (*quantized.values(), family / "two")]
    recipe = {"models": models, "merge_method": "linear", "out_dtype": "float32"}
    sy.merge(recipe, out=tmp_path / "out")
    parts = []
    for path in quantized.values():
        with LogicalCheckpoint.open(path) as logical:
            parts.append({name: logical.tensor(name).astype(np.float64) for name in logical.names})
    two = wide(family / "two")
    for name, array in wide(tmp_path / "out").items():
        right = (parts[0][name] + parts[1][name] + two[name]) / 3
        np.testing.assert_allclose(array, right, rtol=0, atol=1e-6 * np.abs(right).max())
    # A plain type is taken where the first model is encoded: what it loads in.
    sy.merge({**recipe, "out_dtype": None}, out=tmp_path / "again")
    assert {str(array.dtype) for array in weights(tmp_path / "again").values()} == {"bfloat16"}
