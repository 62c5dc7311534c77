"""The loops of PD-Quant in torch: a block with soft codes, what follows it, and signed descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize._rounded import Rounded
from steelyard.edits.quantize.pd_quant import Begun, Outcome, PdQuantOptions
from steelyard.measure.activations import ActivationStore
from steelyard.measure.model import Model
from steelyard.measure.runner import BlockRunner, Call
from steelyard.measure.windows import IGNORED, Batch, TokenSet
from steelyard.progress import Progress

_TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# How near to the next code a weight may begin that its codes were not the nearest of.
_EDGE = 0.45
_SPREAD = 1e-6


class Soft:
    """One matrix: offsets of its codes and shares of its scales, which gradients reach through the rounding.

    Args:
        begun: where it begins; `weight` is moved as little as it takes to be rounded to the codes it begins with.
    """

    def __init__(self, begun: Begun) -> None:
        rounded = begun.rounded
        self.codec: IntegerCodec = rounded.codec
        self.transposed = begun.transposed
        columns = rounded.codes.shape[1]
        self._group = torch.from_numpy(np.arange(columns) // (self.codec.group_size or columns))
        self._scale = torch.from_numpy(rounded.scale)
        zero = np.full(rounded.scale.shape, self.codec.centre, np.float32)
        self._zero = torch.from_numpy(zero if rounded.zero is None else rounded.zero.astype(np.float32))
        self._low, self._high = (float(end) for end in self.codec.code_range)
        codes = torch.from_numpy(rounded.codes.astype(np.float32))
        step, shift = self._scale[:, self._group], self._zero[:, self._group]
        place = torch.from_numpy(np.asarray(begun.weight, np.float32)) / step + shift
        same = place.clamp(self._low, self._high).round() == codes
        place = torch.where(same, place, torch.minimum(torch.maximum(place, codes - _EDGE), codes + _EDGE))
        self._weight = (place - shift) * step
        self.offset = torch.zeros_like(codes, requires_grad=True)
        self.share = torch.ones_like(self._scale, requires_grad=True)
        self._means = [torch.zeros_like(self.offset), torch.zeros_like(self.share)]

    def _step(self) -> Tensor:
        """Return the scales as they will be read back; gradients see none of the rounding."""
        scale = self._scale * self.share
        limits = torch.finfo(_TYPES[self.codec.scale_dtype])
        magnitude = scale.detach().abs().clamp(limits.smallest_normal, limits.max)
        stored = torch.copysign(magnitude, scale.detach()).to(_TYPES[self.codec.scale_dtype]).float()
        return scale + (stored - scale).detach()

    def _codes(self, step: Tensor) -> Tensor:
        place = self._weight / step[:, self._group] + self._zero[:, self._group] + self.offset
        inside = place.clamp(self._low, self._high)
        return inside + (inside.round() - inside).detach()

    def matrix(self) -> Tensor:
        """Return the matrix as readers would see it, as the model has it, differentiable."""
        step = self._step()
        decoded = (self._codes(step) - self._zero[:, self._group]) * step[:, self._group]
        return decoded.T if self.transposed else decoded

    def rounded(self, like: Rounded) -> Rounded:
        """Return the codes and scales."""
        with torch.no_grad():
            step = self._step()
            codes = self._codes(step).round()
        return replace(like, codes=codes.numpy().astype(np.int8), scale=step.numpy().copy())

    def state(self) -> tuple[Tensor, Tensor]:
        """Return copies of offsets and shares."""
        return self.offset.detach().clone(), self.share.detach().clone()

    def load(self, state: tuple[Tensor, Tensor]) -> None:
        """Inverse of `state`."""
        with torch.no_grad():
            self.offset.copy_(state[0])
            self.share.copy_(state[1])

    def scaled(self, factor: float) -> None:
        """Multiply all scales."""
        with torch.no_grad():
            self.share.fill_(factor)

    def descend(self, rate: float, options: PdQuantOptions, middle: float) -> None:
        """Step against the signs of running means of the gradients: a share `rate` of what may be gone in all."""
        ends = (options.travel, options.reach * middle)
        with torch.no_grad():
            for leaf, mean, far, around in zip(
                (self.offset, self.share), self._means, ends, (0.0, middle), strict=True
            ):
                if leaf.grad is not None:
                    mean.mul_(options.momentum).add_(leaf.grad)
                    leaf.sub_(mean.sign(), alpha=rate * far).clamp_(around - far, around + far)
                    leaf.grad = None


@dataclass(frozen=True)
class _Window:
    """One batch: what enters the rounded block, what the original makes of it there, and in the end.

    The end is None where it is to follow from the corrected target.
    """

    batch: Batch
    calls: Sequence[Call]
    hidden: Tensor
    target: Tensor
    end: Tensor | None


def descend(
    model: Model, begun: Mapping[str, Begun], data: TokenSet, options: PdQuantOptions, progress: Progress
) -> Outcome:
    """Run `pd_quant`; it is documented there."""
    runner = BlockRunner(model)
    batches = data.batches(min(options.tokens, data.tokens // 2))
    judges = min(max(1, round(options.judges * len(batches))), len(batches) - 1)
    stored = runner.skeleton.stored
    found: dict[str, Rounded] = {}
    before, after = [], []
    with ExitStack() as stack:
        store = stack.enter_context(ActivationStore())
        calls = runner.forward(batches, store, keep=True, label="running the original")
        for number in range(len(batches)):
            store.put((runner.depth, number), store.get(number))
        stack.enter_context(runner.skeleton.loaded(model.source, list(stored)))
        entering = [store.get((0, number)) for number in range(len(batches))]
        progress.start("rounding by predictions", runner.depth, "blocks")
        for index in range(runner.depth):
            prefix = runner.skeleton.block_names[index]
            names = {
                parameter.removeprefix(f"{prefix}."): stored[parameter]
                for parameter in runner.skeleton.parameters_of(prefix)
                if stored[parameter] in begun
            }
            soft = {name: Soft(begun[name]) for name in names.values()}
            windows = _windows(runner, batches, calls, store, entering, index, options)
            block = _Block(runner, index, names, soft, windows, judges, options)
            first, last = block.round()
            before.append(first)
            after.append(last)
            found |= {name: matrix.rounded(begun[name].rounded) for name, matrix in soft.items()}
            entering = block.leaving()
            progress.advance(1)
        progress.finish()
    return Outcome(found, tuple(before), tuple(after))


def _windows(
    runner: BlockRunner,
    batches: Sequence[Batch],
    calls: Sequence[Sequence[Call]],
    store: ActivationStore,
    entering: Sequence[Tensor],
    index: int,
    options: PdQuantOptions,
) -> list[_Window]:
    """Return what a block is to do, corrected where that is asked for."""
    targets = [store.get((index + 1, number)) for number in range(len(batches))]
    ends: list[Tensor | None] = [store.get((runner.depth, number)) for number in range(len(batches))]
    if options.correction:
        valid = [torch.from_numpy(batch.valid) for batch in batches]
        every = torch.cat([target[mask] for target, mask in zip(targets, valid, strict=True)])
        mean, spread = every.mean(0), every.std(0)
        for number, mask in enumerate(valid):
            own = targets[number][mask]
            moved = (targets[number] - own.mean(0)) * (spread / own.std(0).clamp_min(_SPREAD)) + mean
            targets[number] = targets[number] + options.correction * (moved - targets[number])
        ends = [None] * len(batches)
    return [_Window(*parts) for parts in zip(batches, calls, entering, targets, ends, strict=True)]


def _predict(
    runner: BlockRunner, batch: Batch, calls: Sequence[Call], hidden: Tensor, first: int, options: PdQuantOptions
) -> Tensor:
    """Return log probabilities [scored tokens, vocabulary] from what enters block `first` of the original."""
    for index in range(first, runner.depth):
        hidden = runner.run_block(runner.skeleton.blocks[index], hidden, calls[index])
    scored = torch.from_numpy(batch.labels != IGNORED)
    logits: Tensor = runner.run_tail(batch, hidden).logits[scored]
    return (logits.float() / options.temperature).log_softmax(-1)


class _Block:
    """One block of which some matrices are soft."""

    def __init__(
        self,
        runner: BlockRunner,
        index: int,
        names: Mapping[str, str],
        soft: Mapping[str, Soft],
        windows: Sequence[_Window],
        judges: int,
        options: PdQuantOptions,
    ) -> None:
        self._runner, self._index, self._names, self._soft = runner, index, names, soft
        self._windows, self._options = windows, options
        # Batches are sorted by the length of their windows: every so many-th judges.
        each = -(-len(windows) // judges)
        self._judges = windows[each - 1 :: each] or windows[-1:]
        chosen = {id(window) for window in self._judges}
        self._descended = [window for window in windows if id(window) not in chosen]

    def round(self) -> tuple[float, float]:
        """Choose scales, then descend; return the objective before and after."""
        first = self._objective()
        if not self._soft:
            return first, first
        best = self._choose_scales(first)
        kept = {name: matrix.state() for name, matrix in self._soft.items()}
        middles = {name: float(state[1].mean()) for name, state in kept.items()}
        for step in range(self._options.steps):
            torch.autograd.backward(self._loss(self._descended[step % len(self._descended)]))
            rate = 2 * (1 - step / self._options.steps) / self._options.steps  # which sum to 1
            for name, matrix in self._soft.items():
                matrix.descend(rate, self._options, middles[name])
        last = self._objective() if self._options.steps else best
        if last >= best:
            for name, matrix in self._soft.items():
                matrix.load(kept[name])
        return first, min(last, best)

    def leaving(self) -> list[Tensor]:
        """Return what leaves the rounded block, for each window."""
        with torch.no_grad():
            return [self._run(window) for window in self._windows]

    def _choose_scales(self, best: float) -> float:
        """Multiply the scales of one matrix after the other by the share with the least objective."""
        for matrix in self._soft.values():
            chosen = 1.0
            for share in self._options.shares:
                matrix.scaled(share)
                now = self._objective()
                if now < best:
                    best, chosen = now, share
            matrix.scaled(chosen)
        return best

    def _objective(self) -> float:
        with torch.no_grad():
            return sum(float(self._loss(window)) for window in self._judges) / len(self._judges)

    def _run(self, window: _Window) -> Tensor:
        block, call = self._runner.skeleton.blocks[self._index], window.calls[self._index]
        given = {parameter: self._soft[name].matrix() for parameter, name in self._names.items()}
        result: Any = functional_call(block, given, (window.hidden, *call.args), dict(call.kwargs))
        output: Tensor = result
        return output

    def _loss(self, window: _Window) -> Tensor:
        output, options = self._run(window), self._options
        valid = torch.from_numpy(window.batch.valid)
        wanted = window.target[valid]
        error = (output[valid] - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
        if not options.prediction:
            return error
        runner, batch, calls = self._runner, window.batch, window.calls
        with torch.no_grad():
            if window.end is None:
                target = _predict(runner, batch, calls, window.target, self._index + 1, options)
            else:
                target = _predict(runner, batch, calls, window.end, runner.depth, options)
        found = _predict(runner, batch, calls, output, self._index + 1, options)
        divergence = torch.nn.functional.kl_div(found, target, log_target=True, reduction="batchmean")
        return divergence * options.temperature**2 + options.local * error
