"""Merges of several vocabularies, against what mergekit makes of the same recipes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from merge.vocabularies import TABLES, Golden
from steelyard.edits.merge.dialect import read_recipes
from steelyard.edits.merge.job import merge_recipe
from steelyard.edits.merge.options import MergeOptions

GOLDEN = Golden()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabularies")
    GOLDEN.write(folder)
    return folder


@pytest.mark.parametrize("case", GOLDEN.cases)
def test_what_mergekit_makes(case: str, models: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOLDEN.recipe(case, models))
    merge_recipe(read_recipes(recipe)[0], tmp_path / "out", MergeOptions())
    tokenizers = pytest.importorskip("tokenizers")
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).get_vocab()
    expected = GOLDEN.vocabulary(case)
    assert found.keys() == expected.keys()
    assert sorted(found.values()) == sorted(expected.values())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == GOLDEN.rows(case)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    for name in TABLES:
        merged = GOLDEN.merged(case, name)
        assert tensors[name].shape == merged.shape
        for token, row in found.items():
            np.testing.assert_allclose(tensors[name][row], merged[expected[token]], atol=1e-6, err_msg=token)
        above = [row for row in range(len(merged)) if row not in found.values()]
        np.testing.assert_allclose(tensors[name][above], merged[above], atol=1e-6)
    name = "model.norm.weight"
    np.testing.assert_allclose(tensors[name], GOLDEN.merged(case, name), atol=1e-6)
