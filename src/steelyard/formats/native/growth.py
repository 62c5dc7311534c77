"""Which levels of nested tensors fit a number of bytes: the order of growth, and what it amounts to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard import codecs
from steelyard.codecs import NestedCodec
from steelyard.errors import UserError
from steelyard.units import format_size


def growth_order(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> list[int]:
    """Return the order in which tensors go up a level, as indices of `curves`.

    Where levels lose ever less per byte this is by falling gain per byte. A level that gains less than the one
    after it is taken together with that: what counts is the slope of the curve's lower hull.

    Args:
        curves: for each tensor its bytes and its damage at each level, lowest first.

    Example:
        >>> growth_order([([10, 20, 30], [9.0, 4.0, 3.0]), ([10, 20], [5.0, 3.0])])
        [0, 1, 0]
    """
    steps: list[tuple[float, int, int]] = []
    for index, (sizes, damages) in enumerate(curves):
        at = 0
        while at < len(sizes) - 1:
            gains = [
                (damages[at] - damages[to]) / max(1, sizes[to] - sizes[at]) for to in range(at + 1, len(sizes))
            ]
            best = max(range(len(gains)), key=lambda place: (gains[place], place))
            steps += [(-gains[best], index, level) for level in range(at + 1, at + best + 2)]
            at += best + 1
    return [index for _, index, _ in sorted(steps)]


@dataclass(frozen=True)
class Growth:
    """The sizes that a folder of nested tensors has.

    Attributes:
        tensors: the nested ones: name, codec at its highest level, shape.
        order: names, each appearance a level more.
        fixed: bytes of everything else.
    """

    tensors: Mapping[str, tuple[NestedCodec, tuple[int, int]]]
    order: tuple[str, ...]
    fixed: int

    @classmethod
    def of_config(cls, quantization: Mapping[str, Any], fixed: int, where: str) -> Growth:
        """Return the sizes of what a `quantization_config` declares.

        Without an order of its own, as of a folder made by `quantize`, all tensors rise together.

        Args:
            quantization: of the native format.
            fixed: bytes of all that is not nested.
            where: its place, for messages.

        Raises:
            UserError: if nothing is nested, or the order is not that of the tensors.
        """
        tensors: dict[str, tuple[NestedCodec, tuple[int, int]]] = {}
        for name, entry in sorted(quantization.get("tensors", {}).items()):
            codec = codecs.from_dict(entry["codec"])
            if isinstance(codec, NestedCodec):
                tensors[name] = codec, (int(entry["shape"][0]), int(entry["shape"][1]))
        if not tensors:
            raise UserError(f"{where} holds no nested tensor; steelyard nest makes such folders")
        steps = {name: codec.level - codec.lowest for name, (codec, _) in tensors.items()}
        growth = quantization.get("growth")
        if growth is None:
            most = max(steps.values())
            return cls(tensors, tuple(n for at in range(most) for n in tensors if at < steps[n]), fixed)
        try:
            order = tuple(str(growth["tensors"][index]) for index in growth["order"])
        except (KeyError, IndexError, TypeError):
            order = ("",)
        if any(order.count(name) != count for name, count in steps.items()) or len(order) != sum(steps.values()):
            raise UserError(f"{where}: the order of growth does not go with the tensors; make the folder again")
        return cls(tensors, order, fixed)

    @classmethod
    def of_folder(cls, folder: str | Path) -> Growth:
        """Return the sizes of a folder.

        Raises:
            UserError: if nothing in it is nested.
        """
        from steelyard.weights import Checkpoint

        with Checkpoint.open(folder) as checkpoint:
            quantization = checkpoint.config.get("quantization_config")
            if not isinstance(quantization, dict) or quantization.get("quant_method") != "steelyard":
                raise UserError(f"{folder} holds no nested tensor; steelyard nest makes such folders")
            found = cls.of_config(quantization, 0, f"{folder}/config.json")
            fixed = sum(checkpoint.info(name).nbytes for name in checkpoint.names if name not in found.tensors)
        return cls(found.tensors, found.order, fixed)

    def nbytes(self, levels: Mapping[str, int]) -> int:
        """Return the bytes of all weights at given levels."""
        return self.fixed + sum(
            codec.at(levels[name]).nbytes(shape) for name, (codec, shape) in self.tensors.items()
        )

    @property
    def lowest(self) -> dict[str, int]:
        """Every tensor's lowest level."""
        return {name: codec.lowest for name, (codec, _) in self.tensors.items()}

    @property
    def smallest(self) -> int:
        """Bytes at the lowest levels."""
        return self.nbytes(self.lowest)

    @property
    def largest(self) -> int:
        """Bytes of everything."""
        return self.nbytes({name: codec.level for name, (codec, _) in self.tensors.items()})

    def prefix(self, steps: int) -> dict[str, int]:
        """Return the levels after the first steps of the order."""
        levels = self.lowest
        for name in self.order[:steps]:
            levels[name] += 1
        return levels

    def within(self, budget: int) -> dict[str, int]:
        """Return the levels of the longest beginning of the order that fits.

        Raises:
            UserError: if not even the lowest levels do.
        """
        total = self.smallest
        if total > budget:
            raise UserError(
                f"{budget:,} bytes do not hold the smallest version, {total:,} bytes ({format_size(total)})"
            )
        levels = self.lowest
        for name in self.order:
            codec, shape = self.tensors[name]
            level = levels[name]
            total += codec.at(level + 1).nbytes(shape) - codec.at(level).nbytes(shape)
            if total > budget:
                break
            levels[name] = level + 1
        return levels

    def at(self, level: int) -> dict[str, int]:
        """Return the same level for all: bits of nested codes, blocks of chains.

        Raises:
            UserError: for a level that not all have.
        """
        for name, (codec, _) in self.tensors.items():
            if not codec.lowest <= level <= codec.level:
                raise UserError(f"{name} has levels {codec.lowest} to {codec.level}, not {level}")
        return dict.fromkeys(self.tensors, level)


def cut_config(quantization: Mapping[str, Any], levels: Mapping[str, int]) -> dict[str, Any]:
    """Return a `quantization_config` of which tensors keep only their first levels.

    Args:
        quantization: of the native format.
        levels: by the names of nested tensors.
    """
    changed: dict[str, Any] = json.loads(json.dumps(dict(quantization)))
    left: dict[str, int] = {}
    for name, level in levels.items():
        entry = changed["tensors"][name]
        codec = codecs.from_dict(entry["codec"])
        assert isinstance(codec, NestedCodec)
        entry["codec"] = codec.at(level).to_dict()
        left[name] = level - codec.lowest
    growth = changed.get("growth")
    if growth is not None:
        order = []
        for index in growth["order"]:
            name = growth["tensors"][index]
            left[name] -= 1
            if left[name] >= 0:
                order.append(index)
        growth["order"] = order
    return changed
