from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.reference import checkpoint
from steelyard.reference.options import TrainOptions

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


class Interrupted(Exception):
    pass


def run(
    folder: Path, options: TrainOptions, sources: Path, resume: bool = False, stop_after: int | None = None
) -> list[float]:
    from steelyard.reference.train import Run, Step

    losses: list[float] = []

    def report(step: Step) -> None:
        losses.append(step.loss)
        if step.number == stop_after:
            raise Interrupted

    trained = Run(folder, options, resume=resume, sources=sources)
    with contextlib.suppress(Interrupted):
        trained.train(report)
    return losses


@pytest.fixture
def uninterrupted(tmp_path: Path, tiny: TrainOptions, sources: Path) -> Iterator[tuple[Path, list[float]]]:
    folder = tmp_path / "uninterrupted"
    yield folder, run(folder, tiny, sources)


def bytes_of(folder: Path) -> bytes:
    return (folder / checkpoint.LAST).read_bytes()


def test_training_lowers_the_loss(uninterrupted: tuple[Path, list[float]], tiny: TrainOptions) -> None:
    _, losses = uninterrupted
    assert len(losses) == tiny.steps
    assert sum(losses[-4:]) / 4 < losses[0] - 0.5


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    uninterrupted: tuple[Path, list[float]], tiny: TrainOptions, sources: Path, tmp_path: Path
) -> None:
    run(tmp_path / "again", tiny, sources)
    assert bytes_of(tmp_path / "again") == bytes_of(uninterrupted[0])
    run(tmp_path / "other", tiny.model_copy(update={"seed": 1}), sources)
    assert bytes_of(tmp_path / "other") != bytes_of(uninterrupted[0])


@pytest.mark.parametrize("stop_after", [3, 12, 18, 22])
def test_an_interrupted_run_ends_in_the_same_bytes(
    stop_after: int, uninterrupted: tuple[Path, list[float]], tiny: TrainOptions, sources: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "interrupted"
    run(folder, tiny, sources, stop_after=stop_after)
    losses = run(folder, tiny, sources, resume=True)
    assert losses == uninterrupted[1][-len(losses) :] and len(losses) < tiny.steps + 1
    assert bytes_of(folder) == bytes_of(uninterrupted[0])


def test_a_finished_run_is_made_longer_from_before_its_decay(
    tiny: TrainOptions, sources: Path, tmp_path: Path
) -> None:
    longer = tiny.model_copy(update={"steps": 30})
    run(tmp_path / "grown", tiny, sources)
    losses = run(tmp_path / "grown", longer, sources, resume=True)
    assert len(losses) == 30 - tiny.decay_start
    run(tmp_path / "planned", longer, sources)
    assert bytes_of(tmp_path / "grown") == bytes_of(tmp_path / "planned")
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("grown", "planned")]
    steps = [[json.loads(line)["step"] for line in log] for log in logs]
    # The steps of the first decay are forgotten, and no step is told twice.
    assert steps[0] == sorted(set(steps[0])) and steps[0][-1] == steps[1][-1] == 30


def test_a_decay_that_would_have_begun_earlier_is_refused(
    uninterrupted: tuple[Path, list[float]], tiny: TrainOptions, sources: Path
) -> None:
    with pytest.raises(UserError, match="the earliest is at step 18"):
        run(uninterrupted[0], tiny.model_copy(update={"steps": 20}), sources, resume=True)


def test_a_folder_in_use_is_refused_unless_resumed(
    uninterrupted: tuple[Path, list[float]], tiny: TrainOptions, sources: Path
) -> None:
    with pytest.raises(UserError, match="--resume"):
        run(uninterrupted[0], tiny, sources)


def test_other_options_are_refused_by_name(
    uninterrupted: tuple[Path, list[float]], tiny: TrainOptions, sources: Path
) -> None:
    with pytest.raises(UserError, match=r"weight_decay 0\.05, not 0\.1"):
        run(uninterrupted[0], tiny.model_copy(update={"weight_decay": 0.1}), sources, resume=True)


def test_a_broken_checkpoint_is_named(
    uninterrupted: tuple[Path, list[float]], tiny: TrainOptions, sources: Path
) -> None:
    (uninterrupted[0] / checkpoint.LAST).write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"checkpoint\.safetensors is not a checkpoint"):
        run(uninterrupted[0], tiny, sources, resume=True)


def test_a_rate_that_diverges_is_reported(tiny: TrainOptions, sources: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lower the learning rates"):
        run(tmp_path / "diverging", tiny.model_copy(update={"other_rate": 1e20}), sources)


def test_the_exported_folder_is_the_trained_model_in_bfloat16(
    uninterrupted: tuple[Path, list[float]], tiny: TrainOptions, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steelyard.reference.export import export

    export(uninterrupted[0], tmp_path / "model", tiny)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == tiny.context == 64
    state = load_file(uninterrupted[0] / checkpoint.LAST)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[f"model.{name}"].bfloat16()), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.model_max_length == 64
    ids = tokenizer("def f(value):", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(input_ids=ids).logits).all()


def test_exporting_before_any_checkpoint_is_refused(tiny: TrainOptions, tmp_path: Path) -> None:
    from steelyard.reference.export import export

    with pytest.raises(UserError, match="no checkpoint to export"):
        export(tmp_path, tmp_path / "model", tiny)


def test_training_leaves_the_processors_arithmetic_as_it_was(
    tiny: TrainOptions, sources: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    run(tmp_path / "run", tiny.model_copy(update={"threads": threads + 1}), sources, stop_after=3)
    assert np.float32(1e-40) * np.float32(0.5) > 0  # flushed to zero where denormal numbers are
    assert torch.get_num_threads() == threads
