"""Models as published: their configs, and the numbers of parameters their authors state.

`published.json` and `published_others.json` hold facts of configs alone. Of every model `parameters` is the exact
count, `published` and `active` are as its authors write them: exact where they give all digits, rounded elsewhere.
`built` is what transformers builds where it ties weights that the checkpoint keeps apart, `labels` their number.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from spec_peers import shapes_of

from steelyard.spec import ModelSpec, architectures, find_architecture

FOLDER = Path(__file__).parent
MODELS: list[dict[str, Any]] = [
    row
    for name in ("published.json", "published_others.json")
    if (FOLDER / name).exists()
    for row in json.loads((FOLDER / name).read_text())
]
for _row in MODELS:
    if "labels" in _row:
        _row["config"]["id2label"] = {str(number): f"LABEL_{number}" for number in range(_row["labels"])}

# Names and shapes are compared of models of fewer parameters: the largest have tens of thousands of tensors.
SHAPES_BELOW = 5e10
# Stored, but worked out by the model.
COMPUTED = ("final_logits_bias",)
# What authors round is seldom rounded alike.
ROUNDED = 0.02

every_model = pytest.mark.parametrize("row", MODELS, ids=[row["model"] for row in MODELS])


def agrees(count: int, stated: str) -> bool:
    """Whether a count is the one stated, such as "70426624", "1.1B" or "135M"."""
    digits = re.fullmatch(r"([\d.]+)([KMB]?)", stated)
    assert digits is not None, stated
    unit = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[digits[2]]
    return abs(count - float(digits[1]) * unit) <= (ROUNDED * count if digits[2] else 0)


@every_model
def test_table_counts_what_was_published(row: dict[str, Any]) -> None:
    spec = ModelSpec.from_config(row["config"])
    assert spec.notes == ()
    assert all(tensor.role and tensor.axes is not None for tensor in spec.tensors.values())
    assert spec.parameter_count() == row["parameters"]
    assert agrees(row["parameters"], row["published"])


@every_model
def test_transformers_counts_the_same(row: dict[str, Any]) -> None:
    if row["config"]["model_type"] not in transformers.CONFIG_MAPPING:
        pytest.skip("transformers has no such class; the code comes with the weights")
    written = dict(row["config"])
    config = transformers.CONFIG_MAPPING[written.pop("model_type")].from_dict(written)
    with torch.device("meta"):
        model = getattr(transformers, written["architectures"][0])(config)
    built = row.get("built", row["parameters"])
    assert model.num_parameters() == built
    if built == row["parameters"] < SHAPES_BELOW:
        table = architectures()[row["config"]["model_type"]]
        stored = {table.rename(name): shape for name, (shape, _) in shapes_of(model).items()}
        assert table.expected_shapes(row["config"]) == {k: v for k, v in stored.items() if k not in COMPUTED}
    # Configs as transformers writes them spell out more and say the same.
    rewritten = json.loads(json.dumps(config.to_dict(), default=str))
    rewritten["architectures"] = written["architectures"]
    assert find_architecture(rewritten) is find_architecture(row["config"])
    assert ModelSpec.from_config(rewritten).parameter_count() == built


@pytest.mark.parametrize("row", [row for row in MODELS if "active" in row], ids=lambda row: row["model"])
def test_active_parameters(row: dict[str, Any]) -> None:
    spec = ModelSpec.from_config(row["config"])
    table = find_architecture(row["config"])
    assert table is not None
    settings = table.settings(row["config"])
    experts, works = table.axis_size("expert", settings), table.active_size("expert", settings)
    counts = {True: 0, False: 0}
    for tensor in spec.tensors.values():
        if tensor.kind != "state":
            counts[str(tensor.role).startswith("expert.")] += tensor.elements
    assert works is not None and counts[True] % experts == 0
    assert agrees(counts[False] + counts[True] // experts * works, row["active"])


def test_enough_models_of_every_architecture() -> None:
    assert len(MODELS) >= 40
    assert len({row["model"] for row in MODELS}) == len(MODELS)
    ours = {row["config"]["model_type"] for row in json.loads((FOLDER / "published.json").read_text())}
    assert ours <= set(architectures())
