from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from steelyard.errors import UserError
from steelyard.reference import corpus
from steelyard.reference.fine_tune import fine_tune
from steelyard.reference.options import TrainOptions
from steelyard.reference.topics import TOPICS, texts


@pytest.fixture
def begun(tmp_path: Path, tiny: TrainOptions, sources: Path) -> Path:
    from steelyard.reference.train import Run, export

    short = tiny.model_copy(update={"steps": 4, "decay_steps": 2})
    Run(tmp_path / "run", short, sources=sources).train()
    export(tmp_path / "run", tmp_path / "begun", short)
    return tmp_path / "begun"


def test_tuning_begins_where_the_model_ended_and_goes_on_after_a_break(
    begun: Path, tiny: TrainOptions, tmp_path: Path
) -> None:
    from steelyard.reference.train import Step

    documents = [f"int function_{number}(int value);\n" * 40 for number in range(8)]
    # The shape of the model counts, whatever the options say of it.
    options = TrainOptions(
        **{**tiny.model_dump(), "hidden": 64, "steps": 6, "decay_steps": 3, "matrix_rate": 1e-9, "other_rate": 1e-9}
    )
    fine_tune(begun, documents, tmp_path / "still-run", tmp_path / "still", options)
    for name, value in load_file(begun / "model.safetensors").items():
        assert (load_file(tmp_path / "still" / "model.safetensors")[name] == value).all(), name
    moving = options.model_copy(update={"matrix_rate": 0.01, "other_rate": 0.01})
    losses: list[float] = []
    fine_tune(begun, documents, tmp_path / "a-run", tmp_path / "a", moving, lambda step: losses.append(step.loss))
    assert losses[-1] < losses[0] - 0.3

    def stop(step: Step) -> None:
        if step.number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(begun, documents, tmp_path / "b-run", tmp_path / "b", moving, stop)
    fine_tune(begun, documents, tmp_path / "b-run", tmp_path / "b", moving)
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_architectures_are_refused(tmp_path: Path, tiny: TrainOptions) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="is a gpt2; only a Llama"):
        fine_tune(tmp_path, ["text"], tmp_path / "run", tmp_path / "out", tiny)


@pytest.mark.parametrize("topic", TOPICS)
def test_every_text_of_a_topic_lies_in_the_split_of_its_path(topic: str) -> None:
    # So what the reference model was trained on is held back from the measurement of its experts too.
    for split in corpus.SPLITS[1:]:
        found = texts(topic, split)
        assert found and {corpus.split_of(file.name) for file in found} == {split}
        assert all(file.text.strip() for file in found)


def test_prose_is_the_docstrings_alone() -> None:
    found = "".join(file.text for file in texts("prose", "held-out"))
    assert "import " not in found.partition("\n")[0] and found.count("\ndef ") < 5 < found.count(". ")


def test_unknown_topics_are_named() -> None:
    with pytest.raises(UserError, match="no topic 'poems'; available: tests, prose, headers, arrays, stubs"):
        texts("poems", "train")
