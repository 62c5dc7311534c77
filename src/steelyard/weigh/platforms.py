"""Time, memory and energy of serving a model: the roofline of every role on a device, or on several.

A role takes the longer of its operations at the device's rate and its bytes at the memory's; one follows another.
Exchanges between devices and the launches of kernels come on top. After "Demystifying Platform Requirements for
Diverse LLM Inference Use Cases" (arXiv 2406.01698).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.spec.cache import KeyValueCache
from steelyard.weigh.devices import ENCODED_SHARE, Device, find_device
from steelyard.weigh.workload import Pass, Workload

Parallelism = Literal["tp", "pp"]
Bound = Literal["compute", "bandwidth", "link", "launches"]

HEADROOM = 0.1
"""Share of a device's memory left to its driver, its libraries and fragments, as serving engines leave it."""
IDLE_SHARE = 0.3
"""Of its board power, what a device draws while it waits for links and launches."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one pass, by what bounds them."""

    compute: float
    bandwidth: float
    link: float
    launches: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.compute + self.bandwidth + self.link + self.launches

    @property
    def bound(self) -> Bound:
        """What most of the time goes to."""
        kinds: tuple[Bound, ...] = ("compute", "bandwidth", "link", "launches")
        return max(kinds, key=lambda kind: float(getattr(self, kind)))


@dataclass(frozen=True)
class ServingMemory:
    """Bytes on each device.

    Attributes:
        weights: of the model.
        cache: keys, values and states of all sequences at the full context.
        workspace: hidden states and logits.
        available: what the device has beside its headroom.
    """

    weights: float
    cache: float
    workspace: float
    available: float

    @property
    def total(self) -> float:
        """All that is needed."""
        return self.weights + self.cache + self.workspace

    @property
    def fits(self) -> bool:
        """Whether the device holds it."""
        return self.total <= self.available


@dataclass(frozen=True)
class Platform:
    """Several of one device.

    Attributes:
        device: each of them.
        count: how many.
        parallelism: "tp" splits every matrix among them, "pp" gives each a run of blocks.
        headroom: share of the memory left free.
    """

    device: Device
    count: int = 1
    parallelism: Parallelism = "tp"
    headroom: float = HEADROOM

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"a platform needs at least one device, got {self.count}")
        if self.parallelism not in ("tp", "pp"):
            raise UserError(f"parallelism must be tp or pp, got {self.parallelism!r}")
        if not 0 <= self.headroom < 1:
            raise UserError(f"headroom must be at least 0 and below 1, got {self.headroom}")
        if self.count > 1 and not self.device.link:
            raise UserError(f"{self.device.name} has no link to others of its kind; use one of it")

    @property
    def name(self) -> str:
        """Such as "8 x h100-sxm (tp)"."""
        return self.device.name if self.count == 1 else f"{self.count} x {self.device.name} ({self.parallelism})"

    @property
    def dollars_per_hour(self) -> float | None:
        """A rough price; None if unknown."""
        price = self.device.dollars_per_hour
        return None if price is None else price * self.count

    @property
    def available(self) -> float:
        """Bytes of each device that a model may use."""
        return self.device.memory * (1 - self.headroom)

    def step(self, work: Pass, number: str | None = None) -> StepTime:
        """Return the time that one pass takes from its start to its end.

        Args:
            work: the pass.
            number: type of the numbers computed with; see `Device.operations_per_second`.
        """
        device, split = self.device, self.count if self.parallelism == "tp" else 1
        rate = device.operations_per_second(number)
        # A pass reads the same weights and cache as the one before.
        speed = device.bytes_per_second((work.weight_bytes + work.other_bytes) / self.count)
        compute, bandwidth = 0.0, work.elements * device.element_seconds / split
        slower = ENCODED_SHARE if work.encoded else 1.0
        for part in work.parts:
            computing = part.operations / split / (rate * device.share_of_rows(part.rows))
            passes = 1.0 if part.rows else device.cache_passes
            moving = (part.weight_bytes / slower + part.other_bytes * passes) / split / speed
            if computing > moving:
                compute += computing
            else:
                bandwidth += moving
        return StepTime(compute, bandwidth, self._link(work), work.kernels * device.kernel_seconds)

    def _link(self, work: Pass) -> float:
        device, count = self.device, self.count
        if count == 1:
            return 0.0
        if self.parallelism == "pp":
            return (count - 1) * (device.link_seconds + work.exchanged / device.link)
        # Two sums over all devices in each block, each around a ring in two phases. Small ones go to all at once.
        once = 2 * device.link_seconds + 2 * (count - 1) / count * work.exchanged / device.link
        return 2 * work.blocks * once

    def memory(self, workload: Workload, prompt: int, context: int, batch: int) -> ServingMemory:
        """Return what every device must hold."""
        cache = workload.cache_bytes(context, batch) / self.cache_shards(workload)
        workspace = workload.workspace_bytes(prompt, batch)
        return ServingMemory(workload.weight_bytes / self.count, cache, workspace, self.available)

    def cache_shards(self, workload: Workload) -> int:
        """Return in how many parts the cache is split: no more than it has heads, and latents have none."""
        if self.parallelism == "pp":
            return self.count
        shards = self.count
        for kept in workload.architecture.kept:
            if isinstance(kept, KeyValueCache):
                heads = workload.architecture.axis_size(kept.heads, workload.settings)
                shards = min(shards, 1 if kept.latent else heads)
        return shards


@dataclass(frozen=True)
class Serving:
    """A model served on a platform.

    Attributes:
        platform: name of it.
        prompt: tokens of each prompt.
        context: tokens in the cache of each sequence when `tpot` is taken, and for which memory is kept.
        batch: sequences at once.
        ttft: seconds to the first token of all prompts read together; of the whole pass for models that do not
            generate.
        tpot: seconds to each further token; None for models that do not generate.
        tokens_per_second: written by all sequences together; read, for models that do not generate.
        joules_per_token: None where the power is unknown.
        dollars_per_million: dollars for a million tokens; None where the price is unknown.
        memory: of each device.
        prefill: where the time to the first token goes.
        decode: where the time of a further token goes; None for models that do not generate.
    """

    platform: str
    prompt: int
    context: int
    batch: int
    ttft: float
    tpot: float | None
    tokens_per_second: float
    joules_per_token: float | None
    dollars_per_million: float | None
    memory: ServingMemory
    prefill: StepTime
    decode: StepTime | None

    @property
    def bottleneck(self) -> str:
        """What would have to grow for more tokens: "memory" where the model does not fit at all."""
        if not self.memory.fits:
            return "memory"
        return (self.decode or self.prefill).bound

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        memory = {**asdict(self.memory), "total": self.memory.total, "fits": self.memory.fits}
        return {**asdict(self), "memory": memory, "bottleneck": self.bottleneck}


def serve(
    spec: ModelSpec,
    device: Device | str,
    *,
    count: int = 1,
    parallelism: Parallelism = "tp",
    prompt: int = 1024,
    context: int | None = None,
    batch: int = 1,
    weight_bits: float | None = 16,
    cache_bits: float = 16,
    number: str | None = None,
    headroom: float = HEADROOM,
) -> Serving:
    """Return time, throughput, energy and memory of a model on a device.

    Args:
        spec: the model; its architecture needs a table.
        device: a device, or the name of one; "local" for this machine once it is calibrated.
        count: how many of it.
        parallelism: "tp" splits every matrix, "pp" gives each device a run of blocks.
        prompt: tokens of each prompt.
        context: tokens in the cache of each sequence; the prompt's if absent.
        batch: sequences at once.
        weight_bits: bits of an element of the matrices, their scales included; None for those stored.
        cache_bits: bits of an element of the cache.
        number: type of the numbers computed with, such as "bf16"; the device's best of 16 bits if absent.
        headroom: share of each device's memory left free.

    Raises:
        UserError: if no table describes the architecture, the device is unknown, or a number makes no sense.
    """
    device = find_device(device) if isinstance(device, str) else device
    platform = Platform(device, count, parallelism, headroom)
    number = number or device.compute_type()
    width = 32 if number == "fp32" else 16
    workload = Workload(spec, weight_bits=weight_bits, cache_bits=cache_bits, activation_bits=width)
    return serve_workload(workload, platform, prompt=prompt, context=context, batch=batch, number=number)


def serve_workload(
    workload: Workload,
    platform: Platform,
    *,
    prompt: int,
    context: int | None = None,
    batch: int = 1,
    number: str | None = None,
    passes: dict[tuple[int, int, int], Pass] | None = None,
) -> Serving:
    """Return what `serve` does, for a workload made once and used for many platforms.

    Args:
        workload: the model.
        platform: the devices.
        prompt: tokens of each prompt.
        context: tokens in each cache.
        batch: sequences.
        number: type of the numbers computed with.
        passes: those counted before, to be used and added to.
    """
    context = prompt if context is None else context
    for name, value in (("prompt", prompt), ("batch", batch)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if context < prompt:
        raise UserError(f"context must hold the prompt of {prompt} tokens, got {context}")
    passes = {} if passes is None else passes
    # Stages of a pipeline work on a part of the batch each, so that none of them waits.
    waves = min(platform.count, batch) if platform.parallelism == "pp" else 1
    each = -(-batch // waves)
    prefill = platform.step(_counted(passes, workload, 0, prompt, each), number)
    # The last wave starts when the others have left the first stage.
    ttft = prefill.total * (1 + (waves - 1) / platform.count)
    decode: StepTime | None = None
    tokens_per_second, busy, seconds = batch * prompt / ttft, prefill, ttft
    tpot: float | None = None
    made = batch * prompt
    if workload.generates:
        decode = platform.step(_counted(passes, workload, 1, context, each), number)
        # The stages hand waves around: a wave is back when it has passed all of them, or when all have passed one.
        tpot = decode.total
        tokens_per_second, busy, seconds, made = batch / tpot, decode, tpot, batch
    power = _power(platform, busy, waves)
    price = platform.dollars_per_hour
    return Serving(
        platform=platform.name,
        prompt=prompt,
        context=context,
        batch=batch,
        ttft=ttft,
        tpot=tpot,
        tokens_per_second=tokens_per_second,
        joules_per_token=None if power is None else power * seconds / made,
        dollars_per_million=None if price is None else 1e6 * price / 3600 / tokens_per_second,
        memory=platform.memory(workload, prompt, context, batch),
        prefill=prefill,
        decode=decode,
    )


def _counted(
    passes: dict[tuple[int, int, int], Pass], workload: Workload, kind: int, tokens: int, batch: int
) -> Pass:
    key = (kind, tokens, batch)
    if key not in passes:
        passes[key] = workload.decode(tokens, batch) if kind else workload.prefill(tokens, batch)
    return passes[key]


def _power(platform: Platform, step: StepTime, waves: int) -> float | None:
    """Watts of all devices: board power while they compute or read, a share of it while they wait."""
    watts = platform.device.watts
    if watts is None:
        return None
    working = (step.compute + step.bandwidth) / step.total
    if platform.parallelism == "pp":  # a stage waits while others have no wave for it
        working *= waves / platform.count
    return platform.count * watts * (working + IDLE_SHARE * (1 - working))
