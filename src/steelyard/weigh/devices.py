"""Devices: what a chip holds, moves and computes, as data; and platforms, which are several of one device."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from steelyard.errors import UserError

Kind = Literal["gpu", "tpu", "cpu", "laptop", "local"]

COMPUTE_SHARE, BANDWIDTH_SHARE = 0.6, 0.75
"""Of its data sheet's peak and bandwidth, what a device reaches in matrix products and in reading weights.

Products of real sizes reach 50 to 75 % of a peak, reads 70 to 85 % of a bandwidth; `docs/platforms.md` compares the
choice with published speeds. A measured device has shares of 1.
"""
KERNEL_SECONDS = 5e-6
"""What each product of matrices costs beside its operations and bytes: launches, and the small kernels near it."""
ENCODED_SHARE = 0.85
"""Of that speed of reading, what products reach whose weights are decoded on the way."""
LINK_SECONDS = 5e-6
"""What one step of an exchange between devices costs whatever its size."""

# What a model of 16-bit weights may compute in; of equally fast ones the first.
_COMPUTE_ORDER = ("bf16", "fp16", "fp32")


@dataclass(frozen=True)
class Level:
    """How fast weights are read when all of them together are of this size: caches are faster than memory."""

    nbytes: int
    bandwidth: float


@dataclass(frozen=True)
class Rows:
    """What share of the peak products of so few rows reach where the bytes of their weights are no limit."""

    rows: int
    share: float


@dataclass(frozen=True)
class Device:
    """One device, in SI units.

    Attributes:
        name: as options name it.
        title: for people.
        kind: "local" for the machine that was measured.
        memory: bytes.
        bandwidth: of its memory, bytes a second.
        peak: operations a second by type of number ("fp32", "bf16", "fp8", ...), dense.
        link: to its neighbours, bytes a second in one direction; 0 if it has no neighbours.
        link_seconds: what one step of an exchange costs whatever its size.
        watts: board power; None if unknown.
        dollars_per_hour: a rough price to rank by; None if unknown.
        source: where the figures are from.
        compute_share: of the peak, what products of matrices reach.
        bandwidth_share: of the bandwidth, what reading weights reaches.
        kernel_seconds: what each product of matrices costs beside its operations and bytes.
        element_seconds: what norms and the like cost for each number that enters or leaves a product, where they
            are kernels of their own; 0 where they are fused with products.
        cache_passes: how often the cache is moved for each new token: once where it grows in place, more often
            where it is copied.
        levels: measured bandwidth by size of what is read again and again, smallest first; may be empty.
        few_rows: measured shares of the peak by the rows of a product, fewest first; may be empty.
    """

    name: str
    title: str
    kind: Kind
    memory: int
    bandwidth: float
    peak: Mapping[str, float]
    link: float = 0.0
    link_seconds: float = LINK_SECONDS
    watts: float | None = None
    dollars_per_hour: float | None = None
    source: str = ""
    compute_share: float = COMPUTE_SHARE
    bandwidth_share: float = BANDWIDTH_SHARE
    kernel_seconds: float = KERNEL_SECONDS
    element_seconds: float = 0.0
    cache_passes: float = 1.0
    levels: tuple[Level, ...] = ()
    few_rows: tuple[Rows, ...] = ()

    def operations_per_second(self, number: str | None = None) -> float:
        """Return the operations a second that products of matrices reach.

        Args:
            number: type of the numbers; the best of bf16, fp16 and fp32 if absent.

        Raises:
            UserError: if the device has no peak for it.
        """
        number = number or self.compute_type()
        if number not in self.peak:
            raise UserError(f"{self.name} has no peak for {number!r}; it has {', '.join(self.peak)}")
        return self.peak[number] * self.compute_share

    def share_of_rows(self, rows: int) -> float:
        """Return the share of `operations_per_second` that products of this many rows reach; 1 if never measured.

        A single row is read at the speed of its weights. Between two measured numbers the share grows evenly with
        the logarithm.
        """
        if rows <= 1 or not self.few_rows:
            return 1.0
        measured = [math.log(point.rows) for point in self.few_rows]
        return float(np.interp(math.log(rows), measured, [point.share for point in self.few_rows]))

    def compute_type(self) -> str:
        """Return the type that a model of 16-bit weights computes in: the fastest of bf16, fp16 and fp32."""
        known = [number for number in _COMPUTE_ORDER if number in self.peak]
        return max(known, key=lambda number: self.peak[number]) if known else next(iter(self.peak))

    def bytes_per_second(self, working_set: float) -> float:
        """Return how fast it reads `working_set` bytes that it reads again in every step."""
        for level in self.levels:
            if working_set <= level.nbytes:
                return level.bandwidth * self.bandwidth_share
        return self.bandwidth * self.bandwidth_share

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Device:
        """Return the device that `to_json` described.

        Raises:
            UserError: if it lacks a figure or one is not a number above zero.
        """
        try:
            levels = tuple(Level(int(level["nbytes"]), float(level["bandwidth"])) for level in data["levels"])
            few = tuple(Rows(int(point["rows"]), float(point["share"])) for point in data["few_rows"])
            peak = {str(number): float(rate) for number, rate in data["peak"].items()}
            device = cls(**{**data, "peak": peak, "levels": levels, "few_rows": few})
            figures = [device.memory, device.bandwidth, *peak.values(), *(level.bandwidth for level in levels)]
            figures += [point.share for point in few]
            if not peak or min(figures) <= 0:
                raise ValueError("every figure must be above zero")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no description of a device ({error}); calibrate the machine again") from error
        return device


@cache
def devices() -> Mapping[str, Device]:
    """Return the devices that are known by name, as `devices.json` lists them."""
    listed = json.loads((files(__package__) / "devices.json").read_text(encoding="utf-8"))["devices"]
    return {row["name"]: _read(row) for row in listed}


def _read(row: Mapping[str, Any]) -> Device:
    """From the units people write data sheets in."""
    return Device(
        name=row["name"],
        title=row["title"],
        kind=row["kind"],
        memory=int(row["memory_gib"] * 2**30),
        bandwidth=row["bandwidth_gb_s"] * 1e9,
        peak={number: rate * 1e12 for number, rate in row["peak_tflops"].items()},
        link=row.get("link_gb_s", 0) * 1e9,
        watts=row.get("watts"),
        dollars_per_hour=row.get("dollars_per_hour"),
        source=row["source"],
    )


def find_device(name: str) -> Device:
    """Return the device of this name; "local" is this machine once it has been calibrated.

    Raises:
        UserError: if there is none, naming those that come near.
    """
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    if key == "local":
        from steelyard.weigh.machine import load

        return load()
    known = devices()
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key, known, 3, 0.5) or [other for other in known if key and key in other]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: local, {', '.join(known)}"
    raise UserError(f"no device is called {name!r}; {hint}")
