"""What starts fast starts without torch, and what is misspelt is answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.cli import VERBS

HEAVY = ("torch", "transformers", "tokenizers", "matplotlib")

# Runs the command line and then tells, on the last line, which packages it imported.
SCRIPT = """
import sys
from steelyard.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code
print("\\n" + " ".join(sorted({name.partition(".")[0] for name in sys.modules})))
sys.exit(code)
"""


def imported(*arguments: object) -> tuple[str, set[str]]:
    """Run a command in a process of its own; return what it printed and the packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0 and done.stderr == "", done
    out, _, packages = done.stdout.rstrip().rpartition("\n")
    return out, set(packages.split())


def test_help_imports_click_and_little_else() -> None:
    out, packages = imported("--help")
    assert all(verb in out for verb in VERBS)
    for heavy in (*HEAVY, "numba", "numpy", "scipy", "pydantic", "rich", "yaml"):
        assert heavy not in packages, heavy


def test_weigh_needs_no_torch(tiny_llama: Path) -> None:
    out, packages = imported("weigh", tiny_llama, "--json")
    assert json.loads(out)["parameters"] > 80_000
    assert not packages & {*HEAVY, "numba", "scipy"}


@pytest.mark.parametrize("verb", ["fit", "quantize"])
def test_a_plan_needs_no_torch(tiny_llama: Path, tmp_path: Path, verb: str) -> None:
    budget = ["--ratio", "0.4"] if verb == "fit" else ["--out", tmp_path / "out"]
    out, packages = imported(verb, tiny_llama, *budget, "--dry-run", "--json")
    assert json.loads(out)["bytes"] < 200_000
    assert not packages & set(HEAVY)
    assert os.listdir(tmp_path) == []


def test_bytes_are_verified_without_torch(steelyard, tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert steelyard("quantize", tiny_llama, "--out", out).code == 0
    printed, packages = imported("verify", out, "--against", tiny_llama)
    assert printed.count("pass") == 5
    assert not packages & set(HEAVY)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_page(steelyard, verb: str) -> None:
    ended = steelyard(verb, "--help")
    assert ended.code == 0 and ended.err == "" and "--help" in ended.out


@pytest.mark.parametrize(
    ("typed", "meant"), [("quantise", "quantize"), ("wiegh", "weigh"), ("verfy", "verify"), ("messure", "measure")]
)
def test_a_misspelt_verb(steelyard, typed: str, meant: str) -> None:
    ended = steelyard(typed, "model")
    assert ended.code == 2 and ended.out == ""
    assert f"did you mean '{meant}'" in ended.err and "train-reference" in ended.err
    assert "Traceback" not in ended.err


def test_an_unknown_verb_lists_all(steelyard) -> None:
    ended = steelyard("xyzzy")
    assert ended.code == 2 and "did you mean" not in ended.err
    assert all(verb in ended.err for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("fit", "model", "--sise", "4MiB"), "--size"),
        (("fit", "model", "--contxt", "4"), "--context"),
        (("quantize", "model", "--bit", "4"), "--bits"),
        (("measure", "model", "--agianst", "base"), "--against"),
    ],
)
def test_a_misspelt_option(steelyard, arguments: tuple[str, ...], meant: str) -> None:
    ended = steelyard(*arguments)
    assert ended.code == 2 and ended.out == ""
    assert meant in ended.err and arguments[2] in ended.err
    assert "Traceback" not in ended.err


def test_a_wrong_choice_names_the_right_ones(steelyard) -> None:
    ended = steelyard("fit", "model", "--format", "onnx", "--ratio", "0.5")
    assert ended.code == 2 and "'onnx'" in ended.err
    assert all(format in ended.err for format in ("auto", "compressed-tensors", "steelyard", "dense"))


def test_what_a_person_sees_and_what_a_program_sees_agree(steelyard, tiny_llama: Path) -> None:
    data = json.loads(steelyard("weigh", tiny_llama, "--json", "--context", "100").out)
    page = steelyard("weigh", tiny_llama, "--context", "100").out
    assert f"{data['parameters']:,} parameters, {data['weight_bytes']:,} bytes" in page
    assert f"{data['cache']['bytes']:,} bytes" in page
    assert data["weight_bytes"] == (tiny_llama / "model.safetensors").stat().st_size
