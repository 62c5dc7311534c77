"""Questions asked backwards: the most that fits on a device, and the cheapest platform that is fast enough."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.weigh.devices import Device, devices, find_device
from steelyard.weigh.platforms import HEADROOM, Parallelism, Platform, Serving, serve_workload
from steelyard.weigh.workload import Pass, Workload

WEIGHT_BITS = (16.0, 8.0, 4.25, 3.25, 2.25)
"""Precisions tried, most first: integers of 4, 3 and 2 bits with a 16-bit scale for every 64 of them."""
COUNTS = (1, 2, 4, 8)
_MOST = 2**40

_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_SLO = re.compile(r"\s*(ttft|tpot)\s*=\s*([0-9]*\.?[0-9]+)\s*(ms|us|s)\s*")


@dataclass(frozen=True)
class Fit:
    """The most of a model that fits on a platform, one quantity at a time with the others as asked.

    Attributes:
        platform: name of it.
        weight_bits: as asked.
        context: as asked.
        batch: as asked.
        largest_batch: sequences of the context asked for; 0 if not even one fits.
        largest_context: tokens for the batch asked for; 0 if not even one fits; None if it may grow without end.
        largest_bits: the most bits of a weight at that context and batch; None if none of those tried fits.
        spare: bytes left on each device at what was asked; below zero if it does not fit.
        notes: what the numbers do not say by themselves.
    """

    platform: str
    weight_bits: float
    context: int
    batch: int
    largest_batch: int
    largest_context: int | None
    largest_bits: float | None
    spare: float
    notes: tuple[str, ...] = ()


def largest_fit(
    spec: ModelSpec,
    device: Device | str,
    *,
    count: int = 1,
    parallelism: Parallelism = "tp",
    prompt: int | None = None,
    context: int = 4096,
    batch: int = 1,
    weight_bits: float = 16,
    cache_bits: float = 16,
    headroom: float = HEADROOM,
) -> Fit:
    """Return the largest batch, context and precision that fit on a device.

    Args:
        spec: the model; its architecture needs a table.
        device: a device or its name.
        count: how many of it.
        parallelism: how the model is split among them.
        prompt: tokens of a prompt, for the workspace; all of the context if absent.
        context: tokens of each sequence.
        batch: sequences.
        weight_bits: bits of an element of the matrices.
        cache_bits: bits of an element of the cache.
        headroom: share of each device's memory left free.

    Raises:
        UserError: if no table describes the architecture, the device is unknown, or a number makes no sense.
    """
    for name, value in (("context", context), ("batch", batch)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    device = find_device(device) if isinstance(device, str) else device
    platform = Platform(device, count, parallelism, headroom)
    workloads = {
        bits: Workload(spec, weight_bits=bits, cache_bits=cache_bits)
        for bits in sorted({*WEIGHT_BITS, weight_bits}, reverse=True)
    }
    asked = workloads[weight_bits]

    def fits(workload: Workload, tokens: int, sequences: int) -> bool:
        read = tokens if prompt is None else min(prompt, tokens)
        return platform.memory(workload, read, tokens, sequences).fits

    longest = largest(lambda tokens: fits(asked, tokens, batch))
    notes = []
    positions = spec.config.get("max_position_embeddings")
    if isinstance(positions, int) and longest > positions:
        notes.append(f"the model was made for contexts of at most {positions:,} tokens")
    memory = platform.memory(asked, prompt or context, context, batch)
    return Fit(
        platform=platform.name,
        weight_bits=weight_bits,
        context=context,
        batch=batch,
        largest_batch=largest(lambda sequences: fits(asked, context, sequences)),
        largest_context=None if longest >= _MOST else longest,
        largest_bits=next((bits for bits, workload in workloads.items() if fits(workload, context, batch)), None),
        spare=memory.available - memory.total,
        notes=tuple(notes),
    )


def largest(holds: Callable[[int], bool], most: int = _MOST) -> int:
    """Return the largest number up to `most` for which `holds`, which must not hold again once it has failed.

    Example:
        >>> largest(lambda number: number**2 <= 30)
        5
    """
    low, high = 0, 1
    while high < most and holds(high):
        low, high = high, high * 2
    if high >= most and holds(most):
        return most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Slo:
    """What is promised to users.

    Attributes:
        ttft: most seconds to the first token; None if it does not matter.
        tpot: most seconds to each further token; None if it does not matter.
    """

    ttft: float | None = None
    tpot: float | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Return the objective that a text names.

        Raises:
            UserError: if it is none.

        Example:
            >>> Slo.parse("ttft=200ms,tpot=20ms")
            Slo(ttft=0.2, tpot=0.02)
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            found = _SLO.fullmatch(part.lower())
            if found is None or found[1] in limits or not float(found[2]):
                raise UserError(f"{text!r} is no objective; write it like ttft=200ms,tpot=20ms")
            limits[found[1]] = float(found[2]) * _TIMES[found[3]]
        return cls(**limits)

    def met_by(self, serving: Serving) -> bool:
        """Whether a platform holds the model and is fast enough."""
        return serving.memory.fits and self.excess(serving) <= 1

    def excess(self, serving: Serving) -> float:
        """How many times longer than promised the worse of the two times is."""
        pairs = ((serving.ttft, self.ttft), (serving.tpot, self.tpot))
        return max((time / limit for time, limit in pairs if time is not None and limit is not None), default=0.0)


@dataclass(frozen=True)
class Offer:
    """A platform that meets an objective.

    Attributes:
        device: name of the device.
        count: how many.
        parallelism: how the model is split.
        dollars_per_hour: rough price of all of them; None if unknown.
        serving: what it does.
    """

    device: str
    count: int
    parallelism: Parallelism
    dollars_per_hour: float | None
    serving: Serving


def cheapest(
    spec: ModelSpec,
    slo: Slo | str,
    *,
    prompt: int = 1024,
    context: int | None = None,
    batch: int = 1,
    weight_bits: float | None = 16,
    cache_bits: float = 16,
    among: Iterable[Device | str] | None = None,
    counts: Iterable[int] = COUNTS,
    headroom: float = HEADROOM,
) -> tuple[Offer, ...]:
    """Return the platforms that meet an objective, cheapest first; those of unknown price come last.

    Args:
        spec: the model; its architecture needs a table.
        slo: the objective, or a text such as "ttft=200ms,tpot=20ms".
        prompt: tokens of each prompt.
        context: tokens in the cache of each sequence; the prompt's if absent.
        batch: sequences at once.
        weight_bits: bits of an element of the matrices; None for those stored.
        cache_bits: bits of an element of the cache.
        among: devices to choose from; all that are known if absent.
        counts: how many of a device may work together.
        headroom: share of each device's memory left free.

    Raises:
        UserError: if no platform meets it, naming the one that comes nearest; or if a number makes no sense.
    """
    slo = Slo.parse(slo) if isinstance(slo, str) else slo
    chosen = [find_device(d) if isinstance(d, str) else d for d in (devices().values() if among is None else among)]
    workload = Workload(spec, weight_bits=weight_bits, cache_bits=cache_bits)
    passes: dict[tuple[int, int, int], Pass] = {}
    offers, missed = [], []
    for device in chosen:
        for count in counts:
            if count > 1 and not device.link:
                continue
            for parallelism in _ways(count):
                platform = Platform(device, count, parallelism, headroom)
                serving = serve_workload(
                    workload, platform, prompt=prompt, context=context, batch=batch, passes=passes
                )
                if slo.met_by(serving):
                    offers.append(Offer(device.name, count, parallelism, platform.dollars_per_hour, serving))
                else:
                    missed.append(serving)
    if not offers:
        raise UserError(_nearest(missed, slo))
    return tuple(sorted(offers, key=_price))


def _ways(count: int) -> tuple[Parallelism, ...]:
    return ("tp",) if count == 1 else ("tp", "pp")


def _price(offer: Offer) -> tuple[bool, float, float]:
    """Cheapest first; of one price the fastest."""
    price = offer.dollars_per_hour
    return price is None, price or 0.0, offer.serving.tpot or offer.serving.ttft


def _nearest(missed: list[Serving], slo: Slo) -> str:
    holding = [serving for serving in missed if serving.memory.fits]
    if not holding:
        return (
            "no platform holds the model; serve it in fewer bits or with a shorter context, or allow more devices"
        )
    best = min(holding, key=slo.excess)
    times = f"{1e3 * best.ttft:.1f} ms to the first token"
    if best.tpot is not None:
        times += f", {1e3 * best.tpot:.1f} ms to each further one"
    return f"no platform meets the objective; {best.platform} comes nearest with {times}"
