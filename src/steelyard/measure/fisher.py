"""Gradients that say how much a change of the model's output costs, taken at the last hidden states.

Language models: labels are drawn from the model's own softmax (the true Fisher information, not the empirical one),
so half the quadratic form of the summed gradient's second moment is the KL divergence from the model to a changed
one. Encoders: the probe u ~ N(0, I) makes E[(u . J d)^2] = |J d|^2, so the same form is half the squared change of
the embedding, which for unit vectors is one minus their cosine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.measure.model import Model
from steelyard.measure.runner import BlockRunner
from steelyard.measure.taps import Taps
from steelyard.measure.windows import IGNORED, Batch, TokenSet
from steelyard.seeds import generator

if TYPE_CHECKING:
    import torch

# Bytes of float32 logits made at once.
LOGIT_BYTES = 1 << 27


def parts_of(batch: Batch, vocabulary: int) -> Iterator[tuple[slice, Batch]]:
    """Cut a batch so that the logits of each part stay within `LOGIT_BYTES`."""
    step = max(1, LOGIT_BYTES // (4 * vocabulary * batch.inputs.shape[1]))
    for begin in range(0, len(batch.windows), step):
        rows = slice(begin, begin + step)
        yield rows, Batch(batch.windows[rows], batch.inputs[rows], batch.labels[rows], batch.lengths[rows])


def language_gradient(
    runner: BlockRunner, taps: Taps, head: str, batch: Batch, hidden: torch.Tensor, data: TokenSet, seed: int
) -> torch.Tensor:
    """Return the gradient [b, t, hidden] of -log p(label) summed over scored positions, labels being sampled.

    The taps receive the head's inputs, and its output gradients in closed form: for a softmax the second moment
    of the gradient of logit v is p_v (1 - p_v).

    Args:
        runner: holding the weights of its tail.
        taps: on the linear maps of the tail.
        head: name of the tensor that makes the logits.
        batch: the windows.
        hidden: after the last block [b, t, hidden].
        data: where the windows come from; names the draws.
        seed: of the draws.
    """
    import torch

    gradient = torch.empty_like(hidden)
    vocabulary = taps.modules[head].weight.shape[0]
    for rows, part in parts_of(batch, vocabulary):
        entering = hidden[rows].detach().requires_grad_(True)
        taps.begin(part)
        seen: list[tuple[Any, Any]] = []
        handle = taps.modules[head].register_forward_hook(
            lambda module, args, output, seen=seen: seen.append((args[0].detach(), output))
        )
        try:
            logits = runner.run_tail(part, entering).logits
        finally:
            handle.remove()
        with torch.no_grad():
            scored = torch.from_numpy(part.labels != IGNORED)
            probabilities = logits.detach().softmax(-1)
            slope = probabilities * scored[..., None]
            x, output = seen[0]
            exact = output.data_ptr() == logits.data_ptr() and output.shape == logits.shape
            if exact:
                lengths = x.square().sum(-1) * scored
                variance = (probabilities * (1 - probabilities)).flatten(0, 1)
                taps.closed.add(head)
                taps.add_rows(head, (variance.T @ lengths.flatten()).double().numpy())
            labels = _sample(probabilities, part, data, seed)
            slope.scatter_add_(2, labels[..., None], -scored[..., None].to(slope.dtype))
        torch.autograd.backward(logits, slope)
        assert entering.grad is not None
        gradient[rows] = entering.grad
    return gradient


def embedding_gradient(
    runner: BlockRunner, taps: Taps, batch: Batch, hidden: torch.Tensor, data: TokenSet, seed: int
) -> torch.Tensor:
    """Return the gradient [b, t, hidden] of a random projection of each sequence's embedding.

    Args:
        runner: holding the weights of its tail.
        taps: on the linear maps of the tail.
        batch: the windows.
        hidden: after the last block [b, t, hidden].
        data: where the windows come from; names the draws.
        seed: of the draws.
    """
    import torch

    entering = hidden.detach().requires_grad_(True)
    taps.begin(batch)
    embedding = pooled(runner, batch, entering)
    probes = np.stack(
        [
            generator(seed, f"probe {_name(data, number)}").standard_normal(embedding.shape[1])
            for number in batch.windows
        ]
    )
    torch.autograd.backward(embedding, torch.from_numpy(probes.astype(np.float32)))
    assert entering.grad is not None
    return entering.grad


def pooled(runner: BlockRunner, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    """Return one embedding per sequence [b, width], as the model's folder says to pool; differentiable."""
    return pool(runner.run_tail(batch, hidden).last_hidden_state, batch, runner.model)


def pool(states: torch.Tensor, batch: Batch, model: Model) -> torch.Tensor:
    """Pool last hidden states [b, t, width] over each sequence's tokens; [b, width]."""
    import torch

    valid = torch.from_numpy(batch.valid)[..., None]
    if model.pooling == "cls":
        embedding = states[:, 0]
    elif model.pooling == "max":
        embedding = states.masked_fill(~valid, float("-inf")).amax(1)
    else:
        embedding = (states * valid).sum(1) / valid.sum(1)
    return torch.nn.functional.normalize(embedding, dim=1) if model.normalise else embedding


def _sample(probabilities: torch.Tensor, batch: Batch, data: TokenSet, seed: int) -> torch.Tensor:
    """Draw a label per position [b, t], each window from its own generator."""
    import torch

    draws = np.zeros(batch.inputs.shape, dtype=np.float32)
    for row, number in enumerate(batch.windows):
        length = int(batch.lengths[row])
        draws[row, :length] = generator(seed, f"labels {_name(data, number)}").random(length, dtype=np.float32)
    cumulative = probabilities.cumsum(-1)
    places = torch.from_numpy(draws)[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, places, right=True).clamp_(max=probabilities.shape[-1] - 1)[..., 0]


def _name(data: TokenSet, number: int) -> str:
    return f"{number} of {data.names[data.windows[number].document]}"
