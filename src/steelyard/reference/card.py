"""The model card: what was measured on the trained model, and nothing else.

`measure` produces the figures, `render` the text; `scripts/reference_card.py` writes both beside the weights.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steelyard.reference import corpus
from steelyard.reference.held_out import Loss, document_loss, total
from steelyard.reference.options import TrainOptions

FIGURES = "figures.json"
"""The measured figures, beside the weights."""

_BITS = (8, 4, 3, 2)
_GROUP = 64


def measure(
    run_folder: Path, model_folder: Path, options: TrainOptions, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Return every figure of the card.

    Args:
        run_folder: of the finished training run.
        model_folder: the exported model.
        options: of the run.
        report: told what is being measured.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    held_out = corpus.files("held-out")

    def losses() -> dict[str, Loss]:
        return {file.name: document_loss(model, tokenizer, file.text, options.context) for file in held_out}

    report("held-out loss")
    base = losses()
    reaction = []
    for bits in _BITS:
        report(f"held-out loss at {bits} bits")
        stored, restore = _round(model, bits)
        reaction.append({"bits": bits, "stored_bytes": stored, **_figures(total(losses().values()))})
        restore()
    log = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    train = corpus.files("train")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "python": platform.python_version(),
        "parameters": parameters,
        "weight_bytes": (model_folder / "model.safetensors").stat().st_size,
        "options": options.model_dump(),
        "train": {
            "files": len(train),
            "utf8": sum(len(file.text.encode()) for file in train),
            "tokens": _stream_length(run_folder),
            "tokens_seen": log[-1]["tokens"],
            "seconds": round(sum(entry["seconds"] for entry in log)),
            "log": [[entry["step"], entry["loss"]] for entry in log],
        },
        "held_out": {"files": len(held_out), **_figures(total(base.values()))},
        "round_to_nearest": reaction,
        "documents": {
            file.name: {
                "sha256": hashlib.sha256(file.text.encode()).hexdigest(),
                "tokens": base[file.name].tokens,
                "nats": round(base[file.name].nats, 3),
            }
            for file in held_out
        },
    }


def render(figures: dict[str, Any]) -> str:
    """Return the card in Markdown."""
    options, train, held_out = figures["options"], figures["train"], figures["held_out"]
    stretched = options["sequence"] * options["decay_stretch"]
    context = stretched if options["decay_steps"] else options["sequence"]
    epochs = train["tokens_seen"] / train["tokens"]
    facts = {
        "parameters": f"{figures['parameters']:,} (embedding tied to the head)",
        "shape": f"{options['layers']} blocks, hidden {options['hidden']}, feed-forward {options['ffn']}, "
        f"{options['heads']} heads, {options['kv_heads']} key and value heads",
        "tokenizer": f"byte-level BPE, {options['vocabulary']:,} entries, `<\\|endoftext\\|>` before a document",
        "context": f"{context} tokens",
        "weights": f"bfloat16, {figures['weight_bytes']:,} bytes",
        "trained on": f"{train['files']:,} files of Python {figures['python']}'s standard library, "
        f"{train['utf8'] / 1e6:.1f} MB, {train['tokens']:,} tokens",
        "tokens seen": f"{train['tokens_seen']:,} ({epochs:.2f} epochs) in {options['steps']:,} steps",
        "schedule": f"{options['warmup_steps']} steps of warm-up, stable, decay over the last "
        f"{options['decay_steps']} (1 - sqrt); sequences of {options['sequence']} tokens, "
        f"of {stretched} over the decay",
        "optimizer": f"Muon {options['matrix_rate']} on the blocks' matrices, AdamW {options['other_rate']} on the "
        f"rest, float32, seed {options['seed']}",
        "time": f"{train['seconds'] / 60:.0f} minutes on a shared processor",
    }
    rows = (
        f"| {row['bits']} | {row['stored_bytes'] / 1e6:.2f} MB | {row['nats_per_token']:.4f} "
        f"| {row['nats_per_token'] - held_out['nats_per_token']:+.4f} | {row['bits_per_byte']:.4f} |"
        for row in figures["round_to_nearest"]
    )
    return _CARD.format(
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        rows="\n".join(rows),
        files=held_out["files"],
        utf8=held_out["utf8"],
        tokens=held_out["tokens"],
        context=context,
        nats=held_out["nats_per_token"],
        bits=held_out["bits_per_byte"],
        group=_GROUP,
    )


_CARD = """# Steelyard's reference model

A small Llama that has read the Python standard library. It exists to be fitted, rounded, pruned and measured in
Steelyard's demo, tests and benchmarks; it is no assistant, and knows nothing but Python source code.
Made by `steelyard train-reference`; the figures below by `scripts/reference_card.py`, which writes this file.

| | |
| --- | --- |
{facts}

## Loss on held-out files

{files} files ({utf8:,} bytes, {tokens:,} tokens) that were in neither training nor calibration; each alone,
in windows of {context} tokens, every token predicted once.

**{nats:.4f} nats per token, {bits:.4f} bits per byte.**

## How the loss reacts to rounding

Round-to-nearest, symmetric, groups of {group} with a bfloat16 scale each, all matrices and the tied embedding:

| bits | matrices and embedding | nats per token | change | bits per byte |
| ---: | ---: | ---: | ---: | ---: |
{rows}

Files are split by the SHA-256 of their path in the library, so another Python version has nearly the same split but
not quite the same text. `figures.json` holds the held-out loss of every file beside the hash of its text, and the
training loss over time.
"""


def _round(model: Any, bits: int) -> tuple[int, Callable[[], None]]:
    """Round all matrices of a model in place; return their stored bytes and what undoes it."""
    import torch

    from steelyard.codecs import IntegerCodec

    codec = IntegerCodec(bits=bits, group_size=_GROUP)
    matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() == 2}
    originals = {name: parameter.detach().clone() for name, parameter in matrices.items()}
    stored = 0
    with torch.no_grad():
        for name, parameter in matrices.items():
            shape = tuple(parameter.shape)
            decoded = codec.decode(codec.encode(originals[name].numpy(), name), shape)
            parameter.copy_(torch.from_numpy(decoded))
            stored += codec.nbytes(shape)

    def restore() -> None:
        with torch.no_grad():
            for name, parameter in matrices.items():
                parameter.copy_(originals[name])

    return stored, restore


def _figures(loss: Loss) -> dict[str, Any]:
    return {
        "utf8": loss.utf8,
        "tokens": loss.tokens,
        "nats_per_token": round(loss.per_token, 5),
        "bits_per_byte": round(loss.bits_per_byte, 5),
    }


def _stream_length(run_folder: Path) -> int:
    import numpy as np

    return int(np.load(run_folder / "tokens.npy", mmap_mode="r").size)
