"""The selective scan of Mamba, fast on a CPU: no tensor ever holds all states of a whole batch."""

from __future__ import annotations

from typing import Any

import torch

_TOGETHER = 1 << 15
"""States of sequences that run side by side, in numbers: few enough to stay in the processor's cache."""

_SEGMENT = 16
"""Time steps worked on at once; the states between segments are kept for the gradient."""


def selective_scan(
    u: torch.Tensor, step: torch.Tensor, decay: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Return y_t = C_t h_t of the states h_t = exp(step_t A) h_{t-1} + step_t B_t u_t, with h_{-1} = 0.

    Differentiable in every argument. Time is walked in segments, for some sequences at once. Only the states
    between segments are kept; the gradient runs each segment again.

    Args:
        u: inputs [batch, t, channels].
        step: time steps, positive [batch, t, channels].
        decay: A, negative [channels, state].
        b: what enters the state [batch, t, state].
        c: what is read from it [batch, t, state].

    Source: Gu and Dao 2023, 2312.00752, equations 2a and 4 with the discretization of its algorithm 2.
    """
    apply: Any = _Scan.apply
    result: torch.Tensor = apply(u, step, decay, b, c)
    return result


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: torch.Tensor) -> torch.Tensor:
        u, step, decay, b, c = arguments
        rate = decay.T.contiguous()
        y = torch.empty_like(u)
        starts = u.new_empty(-(-u.shape[1] // _SEGMENT), len(u), *rate.shape)
        for part in _parts(u, rate):
            work = _Segment(u[part], rate)
            last = u.new_zeros(work.shape)
            for number, when in enumerate(_segments(u)):
                starts[number, part] = last
                states = work.states(u[part, when], step[part, when], b[part, when], last)
                last = states[-1].clone()
                read = _by_time(c[part, when])
                y[part, when] = (read.unsqueeze(2) @ states[1:]).squeeze(2).transpose(0, 1)
        ctx.save_for_backward(*arguments, starts)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        u, step, decay, b, c, starts = ctx.saved_tensors
        rate = decay.T.contiguous()
        to_u, to_step, to_b, to_c = (torch.empty_like(x) for x in (u, step, b, c))
        to_rate = torch.zeros_like(rate)
        for part in _parts(u, rate):
            work = _Segment(u[part], rate)
            back = u.new_zeros(work.shape)
            for number, when in reversed(list(enumerate(_segments(u)))):
                mine = part, when
                states = work.states(u[mine], step[mine], b[mine], starts[number, part])
                gradient, read, into, now, entering = (_by_time(x[mine]) for x in (grad, c, b, step, u))
                to_c[mine] = (states[1:] @ gradient.unsqueeze(3)).squeeze(3).transpose(0, 1)
                backs = work.backs[: len(gradient)]
                for t in range(len(gradient) - 1, -1, -1):
                    torch.addcmul(back, read[t].unsqueeze(2), gradient[t].unsqueeze(1), out=backs[t])
                    torch.mul(backs[t], work.decays[t], out=back)
                to_b[mine] = (backs @ (now * entering).unsqueeze(3)).squeeze(3).transpose(0, 1)
                to_entering = (into.unsqueeze(2) @ backs).squeeze(2)
                # The gradient of the exponents, step A.
                exponents = backs.mul_(work.decays[: len(backs)]).mul_(states[:-1])
                to_exponent = (exponents * rate).sum(2)
                to_rate += exponents.mul_(now.unsqueeze(2)).sum((0, 1))
                to_u[mine] = (to_entering * now).transpose(0, 1)
                to_step[mine] = (to_entering * entering + to_exponent).transpose(0, 1)
        return to_u, to_step, to_rate.T, to_b, to_c


class _Segment:
    """Room for the states [t, sequences, state, channels] of one segment after the other: fresh pages are dear."""

    def __init__(self, u: torch.Tensor, rate: torch.Tensor) -> None:
        self.rate = rate
        self.shape = (len(u), *rate.shape)
        self.history = u.new_empty(_SEGMENT + 1, *self.shape)
        self.decays = u.new_empty(_SEGMENT, *self.shape)
        self.backs = u.new_empty(_SEGMENT, *self.shape)

    def states(self, u: torch.Tensor, step: torch.Tensor, b: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Return the states before the segment and after each of its steps; valid until the next call."""
        length = u.shape[1]
        history, decays = self.history[: length + 1], self.decays[:length]
        torch.mul(step.transpose(0, 1).unsqueeze(2), self.rate, out=decays).exp_()
        entering = u * step
        history[0] = start
        for t in range(length):
            torch.mul(history[t], decays[t], out=history[t + 1])
            history[t + 1].addcmul_(b[:, t].unsqueeze(2), entering[:, t].unsqueeze(1))
        return history


def _by_time(x: torch.Tensor) -> torch.Tensor:
    """Return [sequences, t, …] as the states are, [t, sequences, …], in a row: products would copy it piecewise."""
    return x.transpose(0, 1).contiguous()


def _parts(u: torch.Tensor, rate: torch.Tensor) -> list[slice]:
    together = max(1, _TOGETHER // rate.numel())
    return [slice(first, first + together) for first in range(0, len(u), together)]


def _segments(u: torch.Tensor) -> list[slice]:
    return [slice(first, min(first + _SEGMENT, u.shape[1])) for first in range(0, u.shape[1], _SEGMENT)]
