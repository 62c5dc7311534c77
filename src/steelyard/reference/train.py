"""Training of the reference model: small, real, resumable, deterministic.

A Llama or a Mamba, a warm-up / stable / decay schedule, Muon on the blocks' linear maps and AdamW on the rest, kept
in float32 throughout. The order of the data depends on (seed, epoch) alone, and a checkpoint holds everything the
next step depends on, so a run that was interrupted ends in the same bytes as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.parallel import cpu_count
from steelyard.reference import checkpoint, corpus
from steelyard.reference.export import export
from steelyard.reference.network import build_model, matrices
from steelyard.reference.options import TrainOptions
from steelyard.reference.schedule import batch_at, decay_factor, rate_factor
from steelyard.reference.tokenizer import encode_stream, save_tokenizer, train_tokenizer

__all__ = ["Run", "Step", "TrainOptions", "export"]

_LOG = "log.jsonl"


@dataclass(frozen=True)
class Step:
    """One step's report: its number from 1, its loss in nats per token, all tokens seen so far, its seconds."""

    number: int
    loss: float
    tokens: int
    seconds: float


@contextmanager
def _torch_settings(options: TrainOptions) -> Iterator[None]:
    """Torch's threads as asked for, and denormal numbers as zeros: in trained weights they cost half the speed.

    The mode is the processor's, of this thread and of those begun from it: left on, numpy would flush too.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads or cpu_count())
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


class Run:
    """A training run in its folder: the tokenizer, `tokens.npy`, the checkpoints and `log.jsonl`.

    Args:
        folder: made where it is missing.
        options: of the run.
        resume: continue from the folder's checkpoint; where that lies in a decay other than the one asked for,
            from the state before that decay.
        sources: folder of `*.py` files to train on; None for the standard library's.

    Raises:
        UserError: if the folder is in use and not resumed, or belongs to other options.
    """

    def __init__(
        self, folder: Path, options: TrainOptions, resume: bool = False, sources: Path | None = None
    ) -> None:
        import torch

        from steelyard.reference.linears import install
        from steelyard.reference.muon import Muon

        self.folder, self.options, self.step = folder, options, 0
        if folder.exists() and any(folder.iterdir()) and not resume:
            raise UserError(f"{folder} exists; choose another folder or continue it with --resume")
        folder.mkdir(parents=True, exist_ok=True)
        origin = checkpoint.choose(folder, options)
        self.stream = self._tokens(sources)
        with _torch_settings(options):
            self.model = build_model(options)
        install(self.model, options.linears)
        of_linears = set(matrices(self.model))
        weights: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            (weights if name in of_linears else others).append(parameter)
        self.optimizers: list[Any] = [
            Muon(weights, options.matrix_rate, momentum=0.95, weight_decay=options.weight_decay),
            torch.optim.AdamW(others, lr=options.other_rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0),
        ]
        if origin:
            path, self.step = origin
            checkpoint.restore(path, self.model, self.optimizers)
        self._forget_later_steps()

    def train(self, report: Callable[[Step], None] = lambda step: None) -> None:
        """Run the remaining steps, saving a checkpoint every so often, before the decay and at the end.

        Raises:
            UserError: if the loss stops being finite.
        """
        with _torch_settings(self.options):
            self._train(report)

    def _train(self, report: Callable[[Step], None]) -> None:
        import torch

        options, began = self.options, time.monotonic()
        loss_of = self._loss_function()
        peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        while self.step < options.steps:
            if options.decay_steps and self.step == options.decay_start:
                self._save(checkpoint.STABLE)
            started = time.monotonic()
            batch = torch.from_numpy(batch_at(self.stream, self.step, options))
            loss = loss_of(batch[:, :-1], batch[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            factor = rate_factor(self.step, options)
            for optimizer, rates in zip(self.optimizers, peaks, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                    if group["weight_decay"]:
                        group["weight_decay"] = options.weight_decay * decay_factor(self.step, options)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                raise UserError(f"the loss is {value} at step {self.step}; lower the learning rates")
            done = Step(self.step, value, self.step * options.tokens_per_step, time.monotonic() - started)
            report(done)
            if self.step % options.save_every == 0 or self.step == options.steps:
                self._save(checkpoint.LAST)
                self._log(done, time.monotonic() - began)
                began = time.monotonic()

    def _loss_function(self) -> Callable[[Any, Any], Any]:
        import torch

        def loss_of(inputs: Any, targets: Any) -> Any:
            logits = self.model(input_ids=inputs, use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

        # The loop over time of a scan, and the casts of low precision, are no work for a compiler of graphs.
        plain = self.options.architecture == "llama" and self.options.linears in ("float32", "ternary")
        if not (self.options.compile and plain and any(shutil.which(name) for name in ("c++", "g++", "clang++"))):
            return loss_of
        # Two shapes at most: one compilation for each is faster than one for all.
        compiled: Callable[[Any, Any], Any] = torch.compile(loss_of, dynamic=False)
        return compiled

    def _tokens(self, sources: Path | None) -> np.ndarray:
        path = self.folder / "tokens.npy"
        if not path.exists():
            texts = [file.text for file in corpus.files("train", sources)]
            tokenizer = train_tokenizer(texts, self.options.vocabulary)
            save_tokenizer(tokenizer, self.folder)
            partial = path.with_suffix(".partial")
            with open(partial, "wb") as file:
                np.save(file, encode_stream(tokenizer, texts))
            os.replace(partial, path)
        return np.asarray(np.load(path))

    def _save(self, name: str) -> None:
        checkpoint.save(self.folder / name, self.step, self.options, self.model, self.optimizers)

    def _forget_later_steps(self) -> None:
        """Drop what the log says of steps that will be taken anew, such as those of an earlier decay."""
        log = self.folder / _LOG
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        if len(kept) < len(lines):
            log.write_text("".join(kept))

    def _log(self, done: Step, seconds: float) -> None:
        entry = {
            "step": done.number,
            "loss": round(done.loss, 4),
            "tokens": done.tokens,
            "seconds": round(seconds, 1),
        }
        with open(self.folder / _LOG, "a") as log:
            log.write(json.dumps(entry) + "\n")
