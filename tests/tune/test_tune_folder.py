"""`tune` from end to end: fewer nats, the same bytes, the same result after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.budget.audit import audit
from steelyard.budget.quantize import QuantizeOptions, quantize_folder
from steelyard.budget.tune import tune_folder
from steelyard.budget.tune_options import TuneOptions
from steelyard.errors import UserError
from steelyard.formats.logical import LogicalCheckpoint
from tiny_llama import image, weight_bytes, write_tiny

pytest.importorskip("torch")

SHORT = {"steps": 6, "batch": 2, "sequence_length": 32, "eval_sequences": 4, "save_every": 2, "rate": 0.01}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("texts")
    draw = np.random.default_rng(5)
    for number in range(4):
        np.save(folder / f"{number}.npy", draw.integers(3, 128, 300))
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model, tied, and its 3-bit integers."""
    root = tmp_path_factory.mktemp("tune")
    model = write_tiny(root / "model", tied=True, dtype="bfloat16")
    options = QuantizeOptions(
        bits=3, group_size=32, symmetric=False, rounding="rtn", embeddings=True, format="steelyard"
    )
    quantize_folder(model, root / "start", options)
    return model, root / "start"


class _Stopped(Exception):
    pass


class _StopAfter:
    """A progress that interrupts the training."""

    def __init__(self, steps: int) -> None:
        self.left, self.counting = steps, False

    def start(self, label: str, total: float, unit: str = "") -> None:
        self.counting = label == "training"

    def advance(self, amount: float) -> None:
        if self.counting and amount:
            self.left -= 1
            if not self.left:
                raise _Stopped

    def finish(self) -> None:
        self.counting = False


@pytest.mark.parametrize("method", ["lsq", "ofq"])
def test_training_lowers_the_divergence_in_the_same_bytes(
    method: str, folders: tuple[Path, Path], texts: str, tmp_path: Path
) -> None:
    model, start = folders
    options = TuneOptions(teacher=str(model), method=method, data=texts, **SHORT)
    done = tune_folder(start, tmp_path / "tuned", options)
    assert done.after.kl is not None and done.before.kl is not None
    assert done.after.kl.value < done.before.kl.value
    assert weight_bytes(done.out) == weight_bytes(start) == done.nbytes
    # The very same tensors, types, shapes and config; only their content differs.
    first, second = image(start), image(done.out)
    assert first["config.json"] == second["config.json"]
    assert first["model.safetensors"] != second["model.safetensors"]
    head = int.from_bytes(first["model.safetensors"][:8], "little") + 8
    assert first["model.safetensors"][:head] == second["model.safetensors"][:head]
    audit(done.out, str(model))
    record = json.loads(second["steelyard.json"])
    assert record["tuning"]["after"]["kl"]["value"] == done.after.kl.value
    # What was trained may be trained again.
    again = tune_folder(done.out, tmp_path / "again", options.model_copy(update={"steps": 1}))
    assert again.before.kl == done.after.kl


def test_an_interrupted_run_ends_in_the_same_bytes(folders: tuple[Path, Path], texts: str, tmp_path: Path) -> None:
    model, start = folders
    options = TuneOptions(teacher=str(model), method="l4q", settings=("rank=2",), data=texts, **SHORT)
    tune_folder(start, tmp_path / "straight", options)
    with pytest.raises(_Stopped):
        tune_folder(start, tmp_path / "resumed", options, progress=_StopAfter(5))
    tune_folder(start, tmp_path / "resumed", options, resume=True)
    assert image(tmp_path / "resumed") == image(tmp_path / "straight")
    assert not list(tmp_path.glob(".*"))


def test_a_plain_model_is_quantized_first(texts: str, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model")
    options = TuneOptions(bits=2, group_size=32, rounding="rtn", data=texts, loss="tokens", **SHORT)
    done = tune_folder(model, tmp_path / "tuned", options)
    assert len(done.trained) == 15
    with LogicalCheckpoint.open(done.out) as written:
        assert {codec.label for name in done.trained if (codec := written.codec(name))} == {"int2 g32 sym f16"}


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_transposed_matrices_and_encoders_are_trained(kind: str, texts: str, tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=2, n_head=2))
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        model = BertModel(BertConfig(vocab_size=128, **sizes), add_pooling_layer=False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "model")
    start = QuantizeOptions(bits=2, group_size=32, rounding="rtn", format="steelyard")
    quantize_folder(tmp_path / "model", tmp_path / "start", start)
    options = TuneOptions(teacher=str(tmp_path / "model"), data=texts, **SHORT)
    done = tune_folder(tmp_path / "start", tmp_path / "tuned", options)
    assert done.before.damage is not None and done.after.damage is not None
    assert done.after.damage.value < done.before.damage.value


def test_what_cannot_be_trained_is_refused(folders: tuple[Path, Path], texts: str, tmp_path: Path) -> None:
    model, start = folders
    other = write_tiny(tmp_path / "other", hidden_act="gelu")
    with pytest.raises(UserError, match="is not the model"):
        tune_folder(start, tmp_path / "out", TuneOptions(teacher=str(other), data=texts, **SHORT))
    with pytest.raises(UserError, match=r"steelyard\.json is missing"):
        tune_folder(model, tmp_path / "out", TuneOptions(teacher=str(model), data=texts, **SHORT))
    with pytest.raises(UserError, match=r"did you mean lsq\?"):
        tune_folder(start, tmp_path / "out", TuneOptions(teacher=str(model), method="lsqq", data=texts, **SHORT))
    with pytest.raises(UserError, match="no option 'rank'"):
        tune_folder(
            start, tmp_path / "out", TuneOptions(teacher=str(model), settings=("rank=2",), data=texts, **SHORT)
        )
    assert not list(tmp_path.glob(".out*"))
