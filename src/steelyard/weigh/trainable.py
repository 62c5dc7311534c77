"""The largest model that can be trained on a machine, when its states may leave the devices for memory and disk.

After ZeRO (arXiv 1910.02054), ZeRO-Offload (2101.06840), ZeRO-Infinity (2104.07857): Adam in mixed precision, all
blocks recomputed in the backward pass. Models are plain transformers, as wide as 128 times their depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steelyard.errors import UserError
from steelyard.weigh.devices import Device, find_device
from steelyard.weigh.inverse import largest
from steelyard.weigh.platforms import HEADROOM

Strategy = Literal["replicated", "zero-3", "zero-offload", "zero-infinity-host", "zero-infinity-nvme"]
Formulas = Literal["textbook", "deepspeed"]
Place = Literal["device", "host", "nvme"]

STRATEGIES: tuple[Strategy, ...] = (
    "replicated",
    "zero-3",
    "zero-offload",
    "zero-infinity-host",
    "zero-infinity-nvme",
)

WIDTH_BY_DEPTH = 128
HEAD_WIDTH = 128
_FINEST = 2**20  # widths are tried down to this fraction of one
_HOST_FACTOR = 1.5  # DeepSpeed's estimators: buffers on the host beside the states

_ITS_OWN_HOST = ("local", "cpu", "laptop")

_PARAMETERS, _GRADIENTS = 2, 2
_STATES: dict[Formulas, int] = {"textbook": 12, "deepspeed": 16}
"""fp32 weights, momentum and variance; DeepSpeed and the ZeRO-Infinity paper keep fp32 gradients too."""


@dataclass(frozen=True)
class Shape:
    """A transformer of a given width.

    Attributes:
        hidden: width of its hidden states.
        vocabulary: tokens.
    """

    hidden: float
    vocabulary: int

    @property
    def blocks(self) -> float:
        """Its depth."""
        return max(self.hidden / WIDTH_BY_DEPTH, 1.0)

    @property
    def parameters(self) -> float:
        """Twelve squares of the width in each block, and one table."""
        return 12 * self.blocks * self.hidden**2 + self.vocabulary * self.hidden

    @property
    def largest_module(self) -> float:
        """Parameters of the largest module: the first matrix of the feed-forward part, or the table."""
        return max(4 * self.hidden**2, self.vocabulary * self.hidden)

    def checkpoints(self, positions: int) -> float:
        """Bytes of the hidden states kept at the start of every block."""
        return 2 * positions * self.hidden * self.blocks

    def working(self, batch: int, sequence: int) -> float:
        """Bytes of the activations of one block (ZeRO-Infinity, equation 5), or of the logits if they are more."""
        positions = batch * sequence
        block = positions * (16 * self.hidden + 2 * self.hidden / HEAD_WIDTH * sequence)
        return max(block, positions * self.vocabulary * (2 + 4 + 4))


@dataclass(frozen=True)
class Trainable:
    """The largest model for one way of placing its states.

    Attributes:
        strategy: the way.
        parameters: of the model; 0 if not even the smallest fits.
        hidden: its width, rounded down to a multiple of 64 where it is more.
        blocks: its depth.
        device_bytes: on each device.
        host_bytes: in the memory of the machine.
        nvme_bytes: on its disks.
        limit: what is full.
    """

    strategy: Strategy
    parameters: int
    hidden: int
    blocks: int
    device_bytes: float
    host_bytes: float
    nvme_bytes: float
    limit: Place


def largest_trainable(
    device: Device | str,
    *,
    count: int = 1,
    host_memory: float = 0,
    nvme: float = 0,
    batch: int = 1,
    sequence: int = 1024,
    vocabulary: int = 50257,
    formulas: Formulas = "textbook",
    headroom: float = HEADROOM,
) -> tuple[Trainable, ...]:
    """Return the largest trainable model of every strategy on one machine.

    Args:
        device: a device of the machine, or its name.
        count: how many of it the machine has.
        host_memory: bytes of the machine's memory for the training; not needed where the device is the machine's
            own processor, whose memory it is.
        nvme: bytes of its disks for the training.
        batch: sequences on each device at once.
        sequence: tokens of each.
        vocabulary: tokens of the model.
        formulas: "textbook" takes 16 bytes for each parameter; "deepspeed" 20, and half as much again of what lies
            on the host, as DeepSpeed's estimators do.
        headroom: share of each device's memory left free.

    Raises:
        UserError: if the device is unknown or a number makes no sense.
    """
    device = find_device(device) if isinstance(device, str) else device
    for name, value in (("count", count), ("batch", batch), ("sequence", sequence), ("vocabulary", vocabulary)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if host_memory < 0 or nvme < 0:
        raise UserError("memory of the host and of its disks must not be below zero")
    if formulas not in _STATES:
        raise UserError(f"formulas must be textbook or deepspeed, got {formulas!r}")
    room: dict[Place, float] = {"device": device.memory * (1 - headroom), "host": host_memory, "nvme": nvme}

    shared = device.kind in _ITS_OWN_HOST

    def needed(strategy: Strategy, width: float) -> dict[Place, float]:
        sizes = place(strategy, Shape(width, vocabulary), count, batch, sequence, formulas)
        if not shared:
            return sizes
        return {"device": sizes["device"] + sizes["host"], "host": 0.0, "nvme": sizes["nvme"]}

    def find(strategy: Strategy) -> Trainable:
        def fits(steps: int) -> bool:
            return all(size <= room[where] for where, size in needed(strategy, steps / _FINEST).items())

        width = largest(fits, 2**62) / _FINEST
        beyond = needed(strategy, max(width, 1) * 1.001)
        used = needed(strategy, width)
        shape = Shape(width, vocabulary)
        # What overflows first when the model grows.
        limit = max(room, key=lambda where: beyond[where] / max(room[where], 1e-9))
        return Trainable(
            strategy=strategy,
            parameters=int(shape.parameters),
            hidden=int(width) // 64 * 64 if width >= 64 else int(width),
            blocks=int(shape.blocks) if width else 0,
            device_bytes=used["device"],
            host_bytes=used["host"],
            nvme_bytes=used["nvme"],
            limit=limit,
        )

    return tuple(find(strategy) for strategy in STRATEGIES)


def place(
    strategy: Strategy, shape: Shape, count: int, batch: int, sequence: int, formulas: Formulas
) -> dict[Place, float]:
    """Return the bytes a strategy needs on each device, in the machine's memory and on its disks.

    Args:
        strategy: where parameters, gradients and states of the optimizer lie.
        shape: the model.
        count: devices among which they are split.
        batch: sequences on each device.
        sequence: tokens of each.
        formulas: see `largest_trainable`.
    """
    size, states = shape.parameters, _STATES[formulas]
    everything = size * (_PARAMETERS + _GRADIENTS + states)
    # DeepSpeed's estimator of stage 3 leaves out the gradients in 16 bits.
    split = everything - (_GRADIENTS * size if formulas == "deepspeed" else 0.0)
    spare = _HOST_FACTOR if formulas == "deepspeed" else 1.0
    checkpoints, working = shape.checkpoints(batch * sequence), shape.working(batch, sequence)
    # Of what lies elsewhere, a device holds the largest module and its gradient at a time.
    module = shape.largest_module * (_PARAMETERS + _GRADIENTS)
    if strategy == "replicated":
        return {"device": everything + checkpoints + working, "host": 0.0, "nvme": 0.0}
    if strategy == "zero-3":
        return {"device": split / count + module + checkpoints + working, "host": 0.0, "nvme": 0.0}
    if strategy == "zero-offload":
        # Parameters stay with every device; gradients leave as they are made.
        host = size * max(4 * count, 16) * spare if formulas == "deepspeed" else everything - _PARAMETERS * size
        return {"device": _PARAMETERS * size + checkpoints + working, "host": host, "nvme": 0.0}
    if strategy == "zero-infinity-host":
        return {"device": module + working, "host": split * spare + count * checkpoints, "nvme": 0.0}
    return {"device": module + working, "host": count * (checkpoints + module), "nvme": everything}
