"""Does a preparation pay? KL divergence of a model whose blocks are rounded: as it is, prepared, in other codecs.

    python benchmarks/prepare.py [MODEL] [--methods klt equalize ...] [--bits 3 2] [--activations] [--out FILE]

Every linear map but the head is rounded, in groups of 64; second moments come from one half of the text, divergence
from the other. Text is what measurement takes when none is given. `--activations` also rounds what enters each of
these maps to 8 bits with one scale a token, while the model runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steelyard.budget.prepare import PrepareOptions, prepare_folder
from steelyard.codecs import Codec, IntegerCodec, OutlierCodec, RotatedCodec
from steelyard.edits import registry
from steelyard.edits.quantize.statistics import Statistics
from steelyard.jobs import resolve
from steelyard.measure import default_corpora, open_model
from steelyard.measure.mamba import use_fast_mixers
from steelyard.measure.windows import cut

LENGTH, BATCH = 192, 4

METHODS: dict[str, dict[str, Any]] = {
    "equalize": {"method": "equalize"},
    "values": {"method": "query-key", "values": True},
    "awq": {"method": "awq", "bits": 3},
    "smooth": {"method": "smooth"},
    "hadamard": {"method": "rotate", "untie": True},
    "klt": {"method": "rotate", "rotation": "klt", "untie": True},
    "disassemble": {"method": "disassemble", "extra": 64},
    "assemble": {"method": "disassemble", "extra": 64, "assemble": True},
}

Maps = dict[str, torch.nn.Linear]


def main() -> None:
    """Measure all that was asked for, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="reference")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--bits", nargs="+", type=int, default=[3, 2])
    parser.add_argument("--sequences", type=int, default=48)
    parser.add_argument("--activations", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    calibrate, judge = tokens(asked.model, asked.sequences)
    base = load(resolve(asked.model))
    expected = log_probabilities(base, judge)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for name in ["", *asked.methods]:
            folder = resolve(asked.model)
            if name:
                folder = str(Path(work) / name)
                options = PrepareOptions(**METHODS[name], calibration=str(Path(work) / "calibration.safetensors"))
                prepare_folder(asked.model, folder, options)
            model = load(folder)
            statistics = moments(model, calibrate)
            for label, rounding, codec in ways(asked.bits, own=not name):
                begun = time.monotonic()
                with_codes = rounded(model, statistics, rounding, codec)
                if asked.activations:
                    with_activations(model)
                found = log_probabilities(model, judge)
                kl = float((expected.exp() * (expected - found)).sum(-1).mean())
                restore(model, with_codes["weights"])
                row = {"prepared": name, "codes": label, "kl": kl, "bits": with_codes["bits"]}
                rows.append({**row, "seconds": time.monotonic() - begun})
                print(f"{name or 'as it is':12} {label:24} KL {kl:.4f}  {row['bits']:.3f} bits", flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1))


def tokens(location: str, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return windows to take moments from and others to judge by, int64 [sequences, LENGTH]."""
    model = open_model(resolve(location))
    corpora = default_corpora(model, 0, sequences=sequences, length=LENGTH)
    halves = []
    for corpus in (corpora.calibration, corpora.held_out):
        found = cut(
            corpus, model.tokenizer, model.task, model.vocabulary, sequences=sequences, length=LENGTH, seed=0
        )
        rows = [window.inputs for window in found.windows if len(window.inputs) == LENGTH]
        halves.append(torch.from_numpy(np.stack(rows).astype(np.int64)))
    return halves[0], halves[1]


def load(folder: str) -> torch.nn.Module:
    """Return a model in float32."""
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    use_fast_mixers(model)
    return model


def log_probabilities(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of every next token."""
    with torch.no_grad():
        return torch.cat(
            [torch.log_softmax(model(part, use_cache=False).logits, -1) for part in windows.split(BATCH)]
        )


def maps(model: torch.nn.Module) -> Maps:
    """Return the linear maps of the blocks by name."""
    named = model.named_modules()
    return {name: module for name, module in named if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def moments(model: torch.nn.Module, windows: torch.Tensor) -> dict[str, Statistics]:
    """Return the second moment of what enters each map."""
    sums: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def add(_: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, torch.zeros(())) + x.T @ x

        return add

    handles = [module.register_forward_hook(hook(name)) for name, module in maps(model).items()]
    log_probabilities(model, windows)
    for handle in handles:
        handle.remove()
    return {name: Statistics((total / windows.numel()).numpy()) for name, total in sums.items()}


def ways(bits: list[int], own: bool) -> Iterator[tuple[str, str, Callable[[int], Codec]]]:
    """Yield a name, a method, and a codec for a number of columns; `own`: those that need no preparation too."""
    for width in bits:

        def base(columns: int, group: int = 64, width: int = width) -> IntegerCodec:
            return IntegerCodec(width, group if columns >= group else None)

        yield f"{width} nearest", "rtn", base
        yield f"{width} gptq", "gptq", base
        if own:
            yield f"{width} gptq, groups of 32", "gptq", lambda columns, base=base: base(columns, 32)
            yield f"{width} 4 columns apart", "outliers", lambda columns, base=base: OutlierCodec(base(columns), 4)
            yield (
                f"{width} rotated",
                "rotated",
                lambda columns, base=base: RotatedCodec(base(columns), max(2, min(256, columns & -columns))),
            )


def rounded(
    model: torch.nn.Module, statistics: dict[str, Statistics], rounding: str, codec: Callable[[int], Codec]
) -> dict[str, Any]:
    """Round every map in place; return the weights as they were, and the bits of one."""
    weights, stored, numbers = {}, 0, 0
    method = registry.get(rounding)
    for name, module in maps(model).items():
        weight = module.weight.data
        code = codec(weight.shape[1])
        found = method.function(weight.numpy(), code, statistics[name], method.options()).decode()
        weights[name], module.weight.data = weight, torch.from_numpy(np.asarray(found, np.float32))
        stored, numbers = stored + code.nbytes(tuple(weight.shape)), numbers + weight.numel()
    return {"weights": weights, "bits": 8 * stored / numbers}


def with_activations(model: torch.nn.Module) -> None:
    """Have what enters each map rounded to 8 bits, one scale a token."""

    def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        scale = inputs[0].abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        return ((inputs[0] / scale).round() * scale, *inputs[1:])

    for module in maps(model).values():
        if not module._forward_pre_hooks:
            module.register_forward_pre_hook(hook)


def restore(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Put weights back, and take hooks off."""
    for name, module in maps(model).items():
        module.weight.data = weights[name]
        module._forward_pre_hooks.clear()


if __name__ == "__main__":
    main()
