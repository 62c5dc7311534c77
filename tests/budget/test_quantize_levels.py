"""`quantize --codec` with codes of 1 bit, powers, quantiles and 8-bit floats: written, verified, read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steelyard.budget.quantize import QuantizeOptions, quantize_folder
from steelyard.codecs.naming import named
from steelyard.edits import registry
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import open_model
from tiny_llama import write_tiny

NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("codec", "method"),
    [
        ("int1:group_size=32", "rtn"),
        ("int1:group_size=32,symmetric=false", "absmax"),
        ("power3", "nupes"),
        ("power4:exponent=1.5", "absmax"),
        ("quantile4", "gptq-levels"),
        ("mxfp4", "gptq-levels"),
        ("ternary", "gptq-levels"),
        ("fp8-block", "gptq-levels"),
    ],
)
def test_codecs_go_through_from_end_to_end(tmp_path: Path, codec: str, method: str) -> None:
    write_tiny(tmp_path / "model", dtype="bfloat16")
    options = QuantizeOptions(codec=codec, rounding=method, data="none", format="steelyard")
    quantize_folder(tmp_path / "model", tmp_path / "out", options)
    kind = named(codec)
    with open_model(tmp_path / "model") as opened, LogicalCheckpoint.open(tmp_path / "out") as written:
        weight = np.ascontiguousarray(opened.checkpoint.tensor(NAME), np.float32)
        decoded = np.asarray(written.tensor(NAME), np.float32)
        shape = opened.spec.tensors[NAME].shape
        assert written.entries[NAME].codec == kind
    if method == "absmax":
        expected = kind.decode(kind.encode(weight), shape)
    else:
        expected = registry.get(method).function(weight, kind, None).decode()
    np.testing.assert_array_equal(decoded, expected)


def test_bits_1_go_where_they_have_a_place(tmp_path: Path) -> None:
    write_tiny(tmp_path / "model", dtype="bfloat16")
    quantize_folder(tmp_path / "model", tmp_path / "out", QuantizeOptions(bits=1, group_size=32))
    with LogicalCheckpoint.open(tmp_path / "out") as written:
        assert len(np.unique(np.asarray(written.tensor(NAME), np.float32)[0, :32])) == 2
        assert written.checkpoint.config["quantization_config"]["quant_method"] == "steelyard"
