"""What two models' linear maps read on the same text: moments of one model's inputs with the other's.

Both models run side by side, block by block, so that memory holds one block of each. Everything that activation
matching and least squares need of text is in these matrices: what a map puts out is its weight times what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.edits.align.opened import Two
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

    from steelyard.measure.runner import BlockRunner
    from steelyard.measure.windows import Batch, TokenSet


@dataclass
class Moments:
    """Sums over tokens of what the first model (x) and the second (y) read.

    Attributes:
        first: sum of x x^T, float64 [n, n].
        cross: sum of x y^T, float64 [n, m].
        second: sum of y y^T, float64 [m, m].
        mean_first: sum of x, float64 [n].
        mean_second: sum of y, float64 [m].
        tokens: how many.
    """

    first: np.ndarray
    cross: np.ndarray
    second: np.ndarray
    mean_first: np.ndarray
    mean_second: np.ndarray
    tokens: int

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Moments:
        """Return the sums over the rows of two arrays, [tokens, n] and [tokens, m]."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        return cls(x.T @ x, x.T @ y, y.T @ y, x.sum(axis=0), y.sum(axis=0), len(x))

    def add(self, other: Moments) -> None:
        """Add the sums over other tokens."""
        self.first += other.first
        self.cross += other.cross
        self.second += other.second
        self.mean_first += other.mean_first
        self.mean_second += other.mean_second
        self.tokens += other.tokens

    def through(self, first: np.ndarray, second: np.ndarray) -> Moments:
        """Return the sums for what maps put out: W x of the first model and V y of the second, [out, in] each."""
        return Moments(
            first @ self.first @ first.T,
            first @ self.cross @ second.T,
            second @ self.second @ second.T,
            first @ self.mean_first,
            second @ self.mean_second,
            self.tokens,
        )

    def likeness(self, correlate: bool) -> np.ndarray:
        """Return how alike each two channels are, float64 [n, m].

        Args:
            correlate: their correlation; otherwise the mean of their product.
        """
        if not correlate:
            return self.cross / self.tokens
        mean, mean2 = self.mean_first / self.tokens, self.mean_second / self.tokens
        covariance = self.cross / self.tokens - np.outer(mean, mean2)
        spread = np.sqrt(np.maximum(np.diag(self.first) / self.tokens - mean**2, 0))
        spread2 = np.sqrt(np.maximum(np.diag(self.second) / self.tokens - mean2**2, 0))
        scale = np.outer(spread, spread2)
        likeness: np.ndarray = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-12)
        return likeness


def collect(two: Two, data: TokenSet, batch_tokens: int = 2048, progress: Progress = SILENT) -> dict[str, Moments]:
    """Run both models over text and gather the moments of what their linear maps read.

    Args:
        two: the models; sizes may differ, depths not.
        data: windows of text in the tokens of both.
        batch_tokens: positions run at once.
        progress: advanced by blocks and batches.

    Returns:
        By `ModelSpec.input_key`: one entry for all maps that read the same.
    """
    import torch

    from steelyard.measure.activations import ActivationStore
    from steelyard.measure.model import open_model
    from steelyard.measure.runner import BlockRunner

    runners = [
        BlockRunner(open_model(opened.checkpoint.location, opened.checkpoint)) for opened in (two.first, two.second)
    ]
    batches = data.batches(batch_tokens)
    found: dict[str, Moments] = {}
    progress.start("running both models", runners[0].depth * len(batches), "batches")
    with torch.no_grad(), ActivationStore() as store:
        calls: list[list[Any]] = [[], []]
        for side, runner in enumerate(runners):
            with runner.embedding():
                for number, batch in enumerate(batches):
                    hidden, called = runner.enter(batch)
                    store.put((side, number), hidden)
                    calls[side].append(called)
        for index in range(runners[0].depth):
            with ExitStack() as stack:
                blocks = [stack.enter_context(runner.block(index)) for runner in runners]
                names = [runner.skeleton.parameters_of(runner.skeleton.block_names[index]) for runner in runners]
                taps = [
                    stack.enter_context(_tapped(two, runner, held))
                    for runner, held in zip(runners, names, strict=True)
                ]
                for number, batch in enumerate(batches):
                    for side, runner in enumerate(runners):
                        after = runner.run_block(
                            blocks[side], store.get((side, number)), calls[side][number][index]
                        )
                        store.put((side, number), after)
                    _gather(taps, batch, found)
                    progress.advance(1)
        with ExitStack() as stack:
            for runner in runners:
                stack.enter_context(runner.tail())
            taps = [
                stack.enter_context(
                    _tapped(two, runner, runner.skeleton.outside_blocks(without=[runner.skeleton.input_embedding]))
                )
                for runner in runners
            ]
            for number, batch in enumerate(batches):
                for side, runner in enumerate(runners):
                    runner.run_tail(batch, store.get((side, number)))
                _gather(taps, batch, found)
    progress.finish()
    return found


@contextmanager
def _tapped(two: Two, runner: BlockRunner, parameters: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Note what linear maps read, by input key, while a runner runs."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    seen: dict[str, torch.Tensor] = {}
    spec = two.first.spec
    handles = []
    for parameter in parameters:
        path, leaf = parameter.rpartition(".")[::2]
        module = runner.skeleton.module.get_submodule(path)
        if leaf != "weight" or not isinstance(module, nn.Linear | Conv1D):
            continue
        name = _canonical(spec.input_keys, spec.ties, runner.skeleton.stored[parameter])

        def note(_: Any, given: tuple[Any, ...], key: str = name) -> None:
            if given[0].dim() == 3:  # a pooler reads one token of each sequence alone
                seen[key] = given[0].detach()

        handles.append(module.register_forward_pre_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _canonical(keys: Mapping[str, str], ties: Mapping[str, str], stored: str) -> str:
    """Return the input key of a linear map's weight; where that is the embedding's, the map is the tied head."""
    aliases = [alias for alias, owner in ties.items() if owner == stored and alias in keys]
    return keys[aliases[0] if aliases else stored]


def _gather(taps: Sequence[dict[str, torch.Tensor]], batch: Batch, found: dict[str, Moments]) -> None:
    valid = batch.valid
    for key, x in taps[0].items():
        rows = [part.numpy().reshape(*valid.shape, -1)[valid] for part in (x, taps[1][key])]
        sums = Moments.of(*rows)
        if key in found:
            found[key].add(sums)
        else:
            found[key] = sums
    for tap in taps:
        tap.clear()
