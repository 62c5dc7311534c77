"""The selective scan of Mamba, fast on a CPU: no tensor ever holds all states of a whole batch."""

from __future__ import annotations

from typing import Any

import torch

_TOGETHER = 1 << 16
"""States of sequences that run side by side, in numbers: few enough to stay in the processor's cache."""


def selective_scan(
    u: torch.Tensor, step: torch.Tensor, decay: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Return y_t = C_t h_t of the states h_t = exp(step_t A) h_{t-1} + step_t B_t u_t, with h_{-1} = 0.

    Differentiable in every argument. Time is walked step by step, for some sequences at once; the gradient runs the
    states again from the start rather than keep them, so memory beyond the arguments does not grow with the batch.

    Args:
        u: inputs [batch, t, channels].
        step: time steps, positive [batch, t, channels].
        decay: A, negative [channels, state].
        b: what enters the state [batch, t, state].
        c: what is read from it [batch, t, state].

    Source: Gu and Dao 2023, 2312.00752, equations 2a and 4 with the discretization of its algorithm 2.
    """
    result: torch.Tensor = _Scan.apply(u, step, decay, b, c)  # type: ignore[no-untyped-call]
    return result


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: torch.Tensor) -> torch.Tensor:
        u, step, decay, b, c = arguments
        ctx.save_for_backward(*arguments)
        y = torch.empty_like(u)
        rate = decay.T.contiguous()
        for part in _parts(u, rate):
            states = _States(u[part], step[part], rate, b[part])
            now = u.new_zeros(states.shape)
            for t in range(u.shape[1]):
                states.advance(t, now, now)
                y[part, t] = torch.bmm(c[part, t].unsqueeze(1), now)[:, 0]
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        u, step, decay, b, c = ctx.saved_tensors
        grad = grad.contiguous()
        rate = decay.T.contiguous()
        to_u, to_step, to_b, to_c = (torch.empty_like(x) for x in (u, step, b, c))
        to_rate = torch.zeros_like(rate)
        length = u.shape[1]
        parts = _parts(u, rate)
        # Fresh pages cost more than the arithmetic, so all parts share one history of states.
        whole = u.new_empty(length + 1, len(u[parts[0]]), *rate.shape)
        whole[0] = 0
        for part in parts:
            states = _States(u[part], step[part], rate, b[part])
            history = whole[:, : len(u[part])]
            for t in range(length):
                states.advance(t, history[t], history[t + 1])
            back = u.new_zeros(states.shape)
            slope = u.new_zeros(states.shape)
            # The gradients of what enters (step u) and, before it is split, of the exponent (step A).
            to_entering = torch.empty_like(u[part])
            to_exponent = torch.empty_like(u[part])
            for t in range(length - 1, -1, -1):
                gradient = grad[part, t]
                back.addcmul_(c[part, t].unsqueeze(2), gradient.unsqueeze(1))
                to_c[part, t] = torch.bmm(history[t + 1], gradient.unsqueeze(2))[:, :, 0]
                to_b[part, t] = torch.bmm(back, states.entering[:, t].unsqueeze(2))[:, :, 0]
                to_entering[:, t] = torch.bmm(b[part, t].unsqueeze(1), back)[:, 0]
                back.mul_(states.decayed(t))
                torch.mul(back, history[t], out=states.spare)
                slope.addcmul_(states.spare, step[part, t].unsqueeze(1))
                to_exponent[:, t] = states.spare.mul_(rate).sum(1)
            to_rate += slope.sum(0)
            to_u[part] = to_entering * step[part]
            to_step[part] = to_entering * u[part] + to_exponent
        return to_u, to_step, to_rate.T, to_b, to_c


class _States:
    """How the states [sequences, state, channels] of some sequences go from one time step to the next."""

    def __init__(self, u: torch.Tensor, step: torch.Tensor, rate: torch.Tensor, b: torch.Tensor) -> None:
        self.step, self.rate, self.b = step, rate, b
        self.entering = u * step
        self.shape = (len(u), *rate.shape)
        self.spare = u.new_empty(self.shape)

    def decayed(self, t: int) -> torch.Tensor:
        """Return what is left of each state after step t; valid until the next call."""
        torch.mul(self.step[:, t].unsqueeze(1), self.rate, out=self.spare)
        return self.spare.exp_()

    def advance(self, t: int, before: torch.Tensor, after: torch.Tensor) -> None:
        """Write the states after step t, which may take the place of those before it."""
        torch.mul(before, self.decayed(t), out=after)
        after.addcmul_(self.b[:, t].unsqueeze(2), self.entering[:, t].unsqueeze(1))


def _parts(u: torch.Tensor, rate: torch.Tensor) -> list[slice]:
    together = max(1, _TOGETHER // rate.numel())
    return [slice(first, first + together) for first in range(0, len(u), together)]
