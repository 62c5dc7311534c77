"""Recipes: errors with their line, plans ahead, and the same bytes as the command line."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import steelyard as sy
from steelyard.budget.fit import FitResult
from steelyard.budget.options import FitOptions
from steelyard.budget.quantize import QuantizeOptions
from steelyard.cli import main
from steelyard.errors import UserError
from steelyard.recipes import read_recipe, run_recipe
from steelyard.recipes.recipe import Recipe, Step
from steelyard.recipes.run import dry_run
from steelyard.recipes.steps import STEPS
from tiny_llama import digest, image, weight_bytes


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def recipe(model: Path, out: Path, *steps: str) -> str:
    lines = [f"model: {model}", f"out: {out}", "steps:", *(f"  - {step}" for step in steps)]
    return "\n".join(lines) + "\n"


DENSE = "fit: {ratio: 0.6, format: dense, data: none, effort: quick}"
FIT = "fit: {ratio: 0.4, data: none, effort: quick}"
START = "model: m\nout: o\nsteps:\n"
WRONG = [
    ("", 1, ["mapping with model, out, steps"]),
    ("- fit\n", 1, ["mapping with model, out, steps"]),
    ("model: m\nout: o\n", 1, ["'steps' is missing"]),
    ("model: m\nsteps:\n  - fit: {size: 1MiB}\n", 1, ["'out' is missing"]),
    ("model: m\nout: o\nsteps: []\n", 1, ["'steps' is missing"]),
    ("model: m\nout: o\nsteps: fit\n", 3, ["a list of steps"]),
    ("model: m\nout: [a, b]\nsteps:\n  - fit\n", 2, ["out", "a path is expected"]),
    ("model: m\nout: o\nstep:\n  - fit\n", 3, ["step", "accepted: model, out, steps"]),
    ("# one\n\nmodel: m\nout: o\nmodel: n\n", 5, ["'model' is given twice"]),
    (START + "  - fit: {size: 4MiB}\n  - qantize: {bits: 4}\n", 5, ["did you mean 'quantize'", "available: fit"]),
    (START + "  - fit:\n      size: 4MiB\n      sise: 3MiB\n", 6, ["sise", "no such option", "size, bits, ratio"]),
    (
        START + "  - quantize:\n      bits: 4\n      group_size: 64\n      rounding: magic\n",
        7,
        ["no rounding 'magic'; available: absmax,", "gptq"],
    ),
    (START + "  - quantize:\n      symmetric: true\n      bits: 9\n", 6, ["bits", "less than or equal to 8", "9"]),
    (START + "  - quantize: {bits: four}\n", 4, ["bits", "integer", "'four'"]),
    (START + "  - fit:\n", 4, ["exactly one of size, bits, ratio, memory"]),
    (START + "  - fit: {size: 4MiB, bits: 3}\n", 4, ["exactly one of", "size, bits"]),
    (START + "  - fit: [size, 4MiB]\n", 4, ["options are a mapping"]),
    (START + "  - fit: {size: 1MiB}\n    quantize: {bits: 4}\n", 4, ["a step is its name with its options"]),
    (START + "  - 7\n", 4, ["a step is its name with its options"]),
    (START + "  - fit: {size: 1MiB, curve: [2, 3, .nan]}\n", 4, ["curve"]),
    (START + "  - fit: {size: 4MiB\n", 5, []),
    ("model: m\n\tout: o\n", 2, []),
    (START + "  - fit: !!python/object/apply:os.system ['true']\n", 4, []),
    (START + "  - fit: {ratio: 0.5, ? [a] : 3}\n", 4, []),
]


@pytest.mark.parametrize(("text", "line", "named"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_what_is_wrong_has_its_line(tmp_path: Path, text: str, line: int, named: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_recipe(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}: "), message
    assert "\n" not in message
    for part in named:
        assert part in message


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: No such file"):
        read_recipe(tmp_path / "nowhere.yaml")
    binary = tmp_path / "weights.yaml"
    binary.write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(UserError, match=r"weights\.yaml: not UTF-8"):
        read_recipe(binary)


def test_what_is_right_is_read(tmp_path: Path) -> None:
    text = START + "  - fit: {size: 4MiB, keep: [norm, 'layers\\.0\\.']}\n  - quantize\n"
    parsed = read_recipe(written(tmp_path, text))
    assert (parsed.model, parsed.out) == ("m", "o")
    assert [step.name for step in parsed.steps] == ["fit", "quantize"]
    assert parsed.steps[0].options == FitOptions(size="4MiB", keep=("norm", "layers\\.0\\."))
    assert parsed.steps[1].options == QuantizeOptions()


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_what_it_says(name: str) -> None:
    """A step's options are documented and its function takes them."""
    kind = STEPS[name]
    assert all(field.description for field in kind.options().model_fields.values())
    assert callable(kind.function()) and kind.summary


def test_the_command_line_is_sugar_over_recipes(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bytes by a recipe, by the command line and from Python."""

    def steelyard(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["steelyard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, capsys.readouterr().err

    path = written(tmp_path, recipe(tiny_llama, tmp_path / "a", FIT))
    steelyard("run", path)
    steelyard(
        *("fit", tiny_llama, "--ratio", "0.4", "--data", "none", "--effort", "quick"), "--out", tmp_path / "b"
    )
    sy.fit(str(tiny_llama), out=tmp_path / "c", ratio=0.4, data="none", effort="quick")
    assert image(tmp_path / "a") == image(tmp_path / "b") == image(tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "recipe.yaml"]


def test_a_dry_run_writes_nothing_and_is_right(tmp_path: Path, tiny_llama: Path) -> None:
    parsed = read_recipe(written(tmp_path, recipe(tiny_llama, tmp_path / "out", FIT)))
    before = digest(tiny_llama)
    (plan,) = dry_run(parsed).steps
    assert os.listdir(tmp_path) == ["recipe.yaml"] and digest(tiny_llama) == before
    (result,) = run_recipe(parsed)
    assert isinstance(result, FitResult)
    assert plan.nbytes == result.nbytes == weight_bytes(tmp_path / "out")


EQUALIZE = "prepare: {method: equalize}"
TUNE = "tune: {teacher: elsewhere, steps: 3, batch: 2}"


def test_every_step_is_planned_from_the_one_before(tmp_path: Path, tiny_llama: Path) -> None:
    """To the byte: what was prepared has the model's headers, and training keeps the bytes of the codes."""
    text = recipe(tiny_llama, tmp_path / "out", EQUALIZE, "quantize: {bits: 5, group_size: 32}")
    parsed = read_recipe(written(tmp_path, text))
    plans = dry_run(parsed)
    assert [plan.nbytes for plan in plans.steps] == [result.nbytes for result in run_recipe(parsed)]
    assert not plans.beyond
    trained = read_recipe(written(tmp_path, text.replace("out\n", "other\n") + f"  - {TUNE}\n"))
    *before, last = dry_run(trained).steps
    assert [plan.nbytes for plan in before] == [plan.nbytes for plan in plans.steps]
    assert (
        last.nbytes == before[-1].nbytes and last.tensors == before[-1].tensors and "3 steps of lsq" in last.asked
    )


@pytest.mark.parametrize(
    ("steps", "planned", "reason"),
    [
        ((DENSE, "quantize: {bits: 5}"), 1, "step 2, quantize, .* leaves tensors of other types"),
        (("quantize: {bits: 5}", EQUALIZE), 1, "step 2, prepare, .* leaves codes"),
        ((EQUALIZE, "prepare: {method: rotate, untie: true}", FIT), 1, "step 2, .*untie stores a head of its own"),
    ],
)
def test_what_cannot_be_planned_says_why(
    tmp_path: Path, tiny_llama: Path, steps: tuple[str, ...], planned: int, reason: str
) -> None:
    plans = dry_run(read_recipe(written(tmp_path, recipe(tiny_llama, tmp_path / "out", *steps))))
    assert len(plans.steps) == planned and re.match(reason, plans.beyond), plans.beyond


def test_nothing_to_plan_is_an_error(tmp_path: Path, tiny_llama: Path) -> None:
    text = recipe(tiny_llama, tmp_path / "out", "prepare: {method: disassemble}")
    with pytest.raises(UserError, match="step 1, prepare, cannot be planned ahead: disassemble adds channels"):
        dry_run(read_recipe(written(tmp_path, text)))


def test_an_impossible_step_fails_before_anything_is_written(tmp_path: Path, tiny_llama: Path) -> None:
    parsed = read_recipe(written(tmp_path, recipe(tiny_llama, tmp_path / "out", "fit: {size: 5kB, data: none}")))
    with pytest.raises(UserError, match="smallest feasible size"):
        dry_run(parsed)
    with pytest.raises(UserError, match="smallest feasible size"):
        run_recipe(parsed)
    assert os.listdir(tmp_path) == ["recipe.yaml"]


def test_an_existing_output_is_refused(tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "out").mkdir()
    parsed = read_recipe(written(tmp_path, recipe(tiny_llama, tmp_path / "out", FIT)))
    with pytest.raises(UserError, match="out already exists"):
        run_recipe(parsed)
    assert os.listdir(tmp_path / "out") == []


def test_two_steps(tmp_path: Path, tiny_llama: Path) -> None:
    """Cast to sixteen bits, then quantized: the second step reads what the first one made."""
    out = tmp_path / "out"
    parsed = read_recipe(written(tmp_path, recipe(tiny_llama, out, DENSE, "quantize: {bits: 5}")))
    first, second = run_recipe(parsed)
    assert second.out == out and out.is_dir()
    assert sorted(os.listdir(tmp_path)) == ["out", "recipe.yaml"]
    # Step by step by hand gives the same weights.
    sy.fit(tiny_llama, out=tmp_path / "half", ratio=0.6, format="dense", data="none", effort="quick")
    sy.quantize(tmp_path / "half", out=tmp_path / "end", bits=5)
    assert first.nbytes == weight_bytes(tmp_path / "half")
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "end" / name).read_bytes()


@pytest.fixture
def interrupted(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe of two steps whose second was interrupted; the first one's folder is kept."""
    out = tmp_path / "out"
    parsed = read_recipe(written(tmp_path, recipe(tiny_llama, out, DENSE, "quantize: {bits: 5}")))

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("steelyard.budget.quantize.quantize_folder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(parsed)
    assert sorted(os.listdir(tmp_path)) == [".out.recipe", "recipe.yaml"]
    assert (tmp_path / ".out.recipe" / "01-fit" / "model.safetensors").is_file()
    return parsed


def test_a_later_step_that_fails_is_resumed(
    tmp_path: Path, interrupted: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first step made is not made again."""

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the first step was carried out again")

    monkeypatch.setattr("steelyard.budget.fit.fit_folder", never)
    (result,) = run_recipe(interrupted, resume=True)
    assert result.out == tmp_path / "out"
    assert sorted(os.listdir(tmp_path)) == ["out", "recipe.yaml"]


def test_resuming_another_recipe_begins_again(tmp_path: Path, interrupted: Recipe) -> None:
    """The first step's folder belongs to its options; with others it must not be taken."""
    other = FitOptions(ratio=0.9, format="dense", data="none", effort="quick", keep=("norm",))
    changed = replace(interrupted, steps=(Step("fit", other), interrupted.steps[1]))
    first, _ = run_recipe(changed, resume=True)
    assert first.report.sizes.budget > 300_000
    with sy.open(tmp_path / "out") as written_out:
        assert written_out.tensor("model.norm.weight").dtype == "float32"


def test_a_first_step_that_is_impossible_leaves_nothing(tmp_path: Path, tiny_llama: Path) -> None:
    text = recipe(tiny_llama, tmp_path / "out", "fit: {size: 5kB, data: none}", "quantize: {bits: 5}")
    with pytest.raises(UserError, match="smallest feasible size"):
        run_recipe(read_recipe(written(tmp_path, text)))
    assert os.listdir(tmp_path) == ["recipe.yaml"]
