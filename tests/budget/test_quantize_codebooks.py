"""A model of codewords from end to end: planned bytes, independent reader, transformers, training of its codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steelyard.budget.quantize import QuantizeOptions, quantize_folder
from steelyard.codecs import CodebookCodec
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import open_model
from tiny_llama import weight_bytes, write_tiny

CODEC = CodebookCodec(2, 4, 8, "F32", "F8_E4M3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("codebooks")
    model = write_tiny(root / "model", tied=True, dtype="bfloat16")
    name = "codebook:codebooks=2,bits=4,group=8,scale_dtype=F32,table_dtype=F8_E4M3"
    result = quantize_folder(model, root / "out", QuantizeOptions(codec=name, data="none", embeddings=True))
    assert result.encoded == 15
    return model, root / "out"


def test_every_matrix_takes_the_bytes_of_the_codec(folders: tuple[Path, Path]) -> None:
    model, out = folders
    with open_model(model) as opened, LogicalCheckpoint.open(out) as read:
        assert {entry.codec for entry in read.entries.values()} == {CODEC}
        encoded = sum(CODEC.nbytes(entry.shape) for entry in read.entries.values())
        kept = sum(t.elements for n, t in opened.spec.tensors.items() if n not in read.entries) * 2
        assert 0 < weight_bytes(out) - encoded - kept < 8192  # what remains is the header


def test_transformers_computes_with_them(folders: tuple[Path, Path]) -> None:
    torch = pytest.importorskip("torch")
    import steelyard

    _, out = folders
    model = steelyard.load(str(out))
    tokens = torch.tensor([[1, 5, 9, 100]])
    with torch.no_grad():
        found = model(tokens).logits
        model.dequantize()
        plain = model(tokens).logits
    torch.testing.assert_close(found, plain, rtol=2e-2, atol=2e-2)


def test_codes_are_trained_in_place(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from steelyard.budget.tune import tune_folder
    from steelyard.budget.tune_options import TuneOptions

    model, out = folders
    np.save(tmp_path / "tokens.npy", np.random.default_rng(5).integers(3, 128, 1200))
    options = TuneOptions(
        teacher=str(model),
        method="pv",
        settings=("share=0.1", "trust=0.5"),
        data=str(tmp_path / "tokens.npy"),
        steps=4,
        batch=2,
        sequence_length=32,
        eval_sequences=4,
    )
    result = tune_folder(out, tmp_path / "tuned", options)
    assert result.nbytes == weight_bytes(out) == weight_bytes(tmp_path / "tuned")
    assert result.notes["moved"] > 0.0
    with LogicalCheckpoint.open(tmp_path / "tuned") as tuned, LogicalCheckpoint.open(out) as first:
        changed = [n for n in first.entries if not np.array_equal(tuned.tensor(n), first.tensor(n))]
        assert len(changed) == len(first.entries) and {e.codec for e in tuned.entries.values()} == {CODEC}
