"""Mamba: a selective state space in each block, with a short convolution before it and a gate after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from steelyard.edits.prepare.network import Network, Pair, Read, require_head, silu
from steelyard.errors import UserError

if TYPE_CHECKING:
    from steelyard.spec import ModelSpec


@dataclass(frozen=True)
class MambaNetwork(Network):
    """A Mamba language model.

    Attributes:
        inner: channels of the state space.
        state: numbers kept for each of them.
        rank: of the map that makes the time steps.
    """

    inner: int
    state: int
    rank: int

    families: ClassVar[tuple[str, ...]] = ("mamba",)

    @classmethod
    def read(cls, spec: ModelSpec) -> MambaNetwork:
        """Return the network of a spec that has a head.

        Raises:
            UserError: if its activation is another than SiLU.
        """
        if spec.config.get("hidden_act", "silu") != "silu":
            raise UserError(f"preparation knows mamba with silu, not with {spec.config['hidden_act']}")
        first = "backbone.layers.0.mixer."
        inner, state = spec.tensors[f"{first}A_log"].shape
        return cls(
            layers=spec.n_layers,
            hidden=int(spec.tensors["backbone.embeddings.weight"].shape[1]),
            epsilon=float(spec.config.get("layer_norm_epsilon", 1e-5)),
            tied=require_head(spec, "lm_head.weight"),
            names=frozenset(spec.tensors),
            embed="backbone.embeddings.weight",
            final_norm="backbone.norm_f.weight",
            head="lm_head.weight",
            inner=int(inner),
            state=int(state),
            rank=int(spec.tensors[f"{first}dt_proj.weight"].shape[1]),
        )

    def block(self, layer: int) -> Mapping[str, str]:
        """Return the names of a block's tensors by short name."""
        mixer = f"backbone.layers.{layer}.mixer."
        linear = {short: f"{mixer}{short}_proj.weight" for short in ("in", "x", "dt", "out")}
        others = {"conv": f"{mixer}conv1d.weight", "A_log": f"{mixer}A_log", "D": f"{mixer}D"}
        return {"norm": f"backbone.layers.{layer}.norm.weight", **linear, **others}

    def readers_of_the_stream(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield every norm of the residual stream with the linear maps behind it; the head's is last."""
        for layer in range(self.layers):
            names = self.block(layer)
            yield names["norm"], (names["in"],)
        yield self.final_norm, (self.head,)

    def writers_to_the_stream(self) -> Iterator[str]:
        """Yield the weights of the linear maps that add to the residual stream."""
        for layer in range(self.layers):
            yield self.block(layer)["out"]

    def pairs(self, norms: bool = True) -> Iterator[Pair]:
        """Yield everything across which a scale can move.

        What enters `out_proj` is not among it: SiLU stands on both of its sides.
        """
        for layer, low_rank in enumerate(self.inner_spaces()):
            names = self.block(layer)
            if norms:
                yield Pair(names["norm"], (names["in"],))
            yield low_rank

    def inner_spaces(self) -> Iterator[Pair]:
        """Yield the low-rank space between `x_proj` and `dt_proj` of each layer."""
        for layer in range(self.layers):
            names = self.block(layer)
            yield Pair(names["x"], (names["dt"],), 1, self.rank, (0, self.rank, self.rank + 2 * self.state))

    def logits(self, read: Read, tokens: np.ndarray) -> np.ndarray:
        """Run the model in float64, one block of weights and one token at a time."""
        stream = read(self.embed)[tokens]
        for layer in range(self.layers):
            names = self.block(layer)
            stream = stream + self._mixer(names, read, self.norm(stream, read(names["norm"])))
        out: np.ndarray = self.norm(stream, read(self.final_norm)) @ read(self.head).T
        return out

    def _mixer(self, names: Mapping[str, str], read: Read, x: np.ndarray) -> np.ndarray:
        entering, gate = np.split(self.linear(read, x, names["in"]), 2, axis=-1)
        u = silu(self._convolved(names["conv"], read, entering))
        step, enters, leaves = np.split(
            self.linear(read, u, names["x"]), [self.rank, self.rank + self.state], axis=-1
        )
        step = np.logaddexp(0.0, self.linear(read, step, names["dt"]))
        decay, skip = -np.exp(read(names["A_log"])), read(names["D"])
        state = np.zeros((len(x), self.inner, self.state))
        out = np.empty_like(u)
        for place in range(x.shape[1]):
            at = step[:, place, :, None]
            state = np.exp(at * decay) * state + at * u[:, place, :, None] * enters[:, place, None, :]
            out[:, place] = (state * leaves[:, place, None, :]).sum(axis=-1)
        return self.linear(read, (out + u * skip) * silu(gate), names["out"])

    def _convolved(self, weight: str, read: Read, x: np.ndarray) -> np.ndarray:
        """Return each channel convolved with its own kernel, which sees the past alone."""
        kernel, bias = read(weight)[:, 0, :], self.bias(weight)
        padded = np.pad(x, ((0, 0), (kernel.shape[1] - 1, 0), (0, 0)))
        out = sum(padded[:, tap : tap + x.shape[1]] * kernel[:, tap] for tap in range(kernel.shape[1]))
        result: np.ndarray = np.asarray(out) + (0.0 if bias is None else read(bias))
        return result
