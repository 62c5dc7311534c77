"""mergekit's command lines: what means something here does it, the rest is answered."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click
import numpy as np
import pytest

from command_line import Steelyard
from merge.siblings import weights
from steelyard.budget.merge import merge_file
from steelyard.cli.merge import command
from steelyard.cli.mergekit_options import WITHOUT_EFFECT
from steelyard.edits.merge.options import MergeOptions

# Every option of mergekit-yaml, mergekit-multi and mergekit-moe of release 0.1.5.
_LIST = """
--allow-crimes --unsafe-truncate-embeddings --transformers-cache --lora-merge-cache --lora-merge-dtype --cuda
--device --low-cpu-memory --out-shard-size --copy-tokenizer --clone-tensors --trust-remote-code --random-seed
--lazy-unpickle --write-model-card --safe-serialization --quiet --read-to-gpu --multi-gpu --num-threads --gpu-rich
--async-write --write-threads -v -j --out-path --intermediate-dir --lazy --no-lazy --load-in-4bit --load-in-8bit
--i-understand-this-is-not-useful-without-training
"""
OPTIONS = frozenset(_LIST.split())


@pytest.fixture
def recipe(family: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(
        f"models: [{{model: {family}/one, parameters: {{density: 0.5}}}}]\n"
        f"merge_method: dare_linear\nbase_model: {family}/base\n"
    )
    return path


def test_every_option_of_mergekits_is_known_here() -> None:
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(OPTIONS) <= known
    page = command.get_help(click.Context(command))
    assert "--random-seed" not in page and "--seed" in page


@pytest.mark.skipif(importlib.util.find_spec("mergekit") is None, reason="mergekit is not installed")
def test_the_list_is_mergekits_own() -> None:
    from mergekit.options import MergeOptions as Theirs

    named = {f"--{name.replace('_', '-')}" for name in Theirs.model_fields} - {"--verbosity"}
    assert named <= set(OPTIONS)


def test_a_whole_command_line_of_mergekits(steelyard: Steelyard, recipe: Path, tmp_path: Path) -> None:
    ended = steelyard(
        "merge", recipe, tmp_path / "out", "--copy-tokenizer", "--lazy-unpickle", "--cuda", "--random-seed", "9",
        "--out-shard-size", "30K", "--low-cpu-memory", "-j", "1", "--write-threads", "4", "-v",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for flag in ("--cuda", "--lazy-unpickle", "--low-cpu-memory", "--write-threads", "-v"):
        assert f"note: {flag} has no effect: " in ended.out
    assert "note: --copy-tokenizer" not in ended.out and ended.out.count("has no effect") == 5
    merge_file(recipe, tmp_path / "right", MergeOptions(seed=9))
    found, right = weights(tmp_path / "out"), weights(tmp_path / "right")
    assert all(np.array_equal(found[name], right[name]) for name in right)
    # 30,000 parameters of 2 bytes a shard, and headers.
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")]
    assert len(sizes) > 2 and max(sizes) < 70_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--unsafe-truncate-embeddings",), "declare a vocabulary in the recipe"),
        (("--no-safe-serialization",), "pickles are never written"),
        (("--transformers-cache", "/tmp/hub"), "HF_HUB_CACHE"),
        (("--random-seed", "1", "--seed", "2"), "--random-seed and --seed are the same"),
        (("--out-shard-size", "many"), "a number of parameters such as 5B"),
        (("--random-seed", "many"), "--seed"),
    ],
)
def test_what_would_be_another_result_is_refused(
    steelyard: Steelyard, recipe: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    ended = steelyard("merge", recipe, tmp_path / "out", *words)
    assert ended.code == 2 and said in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


def test_the_folder_under_mergekits_name(steelyard: Steelyard, recipe: Path, tmp_path: Path) -> None:
    assert steelyard("merge", recipe, "--out-path", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "config.json").exists()


def test_no_tokenizer_is_noted(steelyard: Steelyard, recipe: Path, tmp_path: Path) -> None:
    ended = steelyard("merge", recipe, tmp_path / "out", "--no-copy-tokenizer")
    assert ended.code == 0 and "note: --no-copy-tokenizer has no effect" in ended.out


def test_the_docs_have_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "mergekit.md").read_text()
    missing = [option for option in OPTIONS if f"`{option}`" not in page and f"`{option} " not in page]
    assert not missing
    assert all(reason for reason in WITHOUT_EFFECT.values())
