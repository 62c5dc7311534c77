"""Memory of training a model, part by part, on the fullest of its devices.

The states follow from every tensor's shape: weights, gradients, the optimizer's numbers, split as ZeRO splits them
(arXiv 1910.02054) and put where ZeRO-Offload and ZeRO-Infinity put them (2101.06840, 2104.07857). Activations
follow from the table, see `weigh.activations`. `weigh.estimators` has the formulas that others publish.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from steelyard.errors import UserError
from steelyard.spec import Kind, ModelSpec
from steelyard.spec.tensor import BUFFER, ROUTER
from steelyard.weigh.activations import Activations, Sharing, count_activations
from steelyard.weigh.flops import is_head
from steelyard.weigh.optimizers import state_bytes
from steelyard.weigh.setup import TrainingSetup

__all__ = ["MemoryPlan", "TrainingSetup", "plan_training"]

_LORA_WIDTH = 4
_SHARDED = ("linear", "embedding", "conv")


@dataclass(frozen=True)
class MemoryPlan:
    """What training takes.

    Attributes:
        parts: bytes on the fullest device, by what they are for.
        host: bytes of the node's memory for each device, by what they are for.
        nvme: bytes of its drives, likewise.
        trained: parameters that learn, of the whole model.
        phases: bytes on the device when the backward pass begins and when the optimizer steps.
        notes: what was left out or guessed, one sentence each.
    """

    parts: Mapping[str, int]
    host: Mapping[str, int]
    nvme: Mapping[str, int]
    trained: int
    phases: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All parts, as if all were there at once: the safe answer, and the textbook's."""
        return sum(self.parts.values())

    @property
    def peak(self) -> int:
        """The most there is at once: activations and new gradients do not meet in full."""
        return max(self.phases.values())

    @property
    def host_total(self) -> int:
        """Bytes of the node's memory for each device."""
        return sum(self.host.values())


def plan_training(spec: ModelSpec, setup: TrainingSetup, *, lengths: Mapping[str, int] | None = None) -> MemoryPlan:
    """Return the memory of training a model.

    Args:
        spec: the model. Without a table for its architecture activations are left out, and the plan says so.
        setup: how it is trained.
        lengths: positions of streams other than the text; see `weigh.flops.prefill`.

    Raises:
        UserError: if no map fits the targets of the adapters, or a number is at odds with the model.
    """
    states = _States(setup)
    every = list(_tensors(spec))
    device = _fullest(every, spec.n_layers, setup)
    for tensor in device:
        states.add(tensor)
    trained = sum(states.learned(tensor) for tensor in every)
    if setup.lora_rank and not trained:
        raise UserError(f"no linear map has a role that starts with one of {', '.join(setup.lora_targets)}")
    parts, host, nvme = states.placed()
    notes: tuple[str, ...] = ()
    kept = working = logits = 0
    if spec.architecture is None:
        notes = ("no table describes the architecture, so activations are left out",)
    else:
        learning = _learning(every, setup) if setup.lora_rank else None
        found = count_activations(
            spec,
            setup.sequence,
            setup.batch,
            width=setup.compute_width,
            fused=setup.flash_attention,
            sharing=Sharing(setup.tensor_parallel, setup.sequence_parallel),
            learning=learning,
            lengths=lengths,
        )
        kept, working = _checkpointed(found, setup)
        logits = found.logits
        parts |= {"activations": kept, "recomputed block": working, "logits and loss": logits}
    if setup.precision == "autocast":
        parts["weights in 16 bits"] = 2 * sum(math.prod(t.shape) for t in device if t.kind == "linear") // states.tp
    parts = {name: count for name, count in parts.items() if count}
    return MemoryPlan(parts, host, nvme, trained, _phases(parts, setup), notes)


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    kind: Kind
    role: str
    block: int | None
    expert: bool
    count: int = 1

    @property
    def elements(self) -> int:
        return self.count * math.prod(self.shape)


def _tensors(spec: ModelSpec) -> Iterator[_Tensor]:
    """Every tensor once; experts of a block, which are alike, together."""
    table = spec.architecture
    if table is None:
        for tensor in spec.tensors.values():
            if tensor.role != BUFFER:
                yield _Tensor(tensor.shape, tensor.kind, tensor.role or "", tensor.layer, False)
        return
    settings, owner, tied = table.settings(spec.config), table.class_of(spec.config), table.tied(spec.config)
    first = {stack.axis: stack.before for stack in table.stacks_of(spec.config)}
    alike: dict[_Tensor, int] = {}
    for rule in table.rules:
        if rule.axes is None or not rule.belongs_to(owner) or not rule.applies(settings):
            continue
        for numbers in table.places(rule, settings):
            shape = table.shape(rule, settings, numbers)
            if shape is None or rule.pattern.format(**numbers) in tied:
                continue
            block = next((first[axis] + number for axis, number in numbers.items() if axis in first), None)
            expert = any(axis in table.active for axis in numbers) or any(
                axis in table.active for dimension in rule.axes for axis in dimension.split("*")
            )
            found = _Tensor(shape, rule.kind, rule.role, block, expert and not rule.role.startswith(ROUTER))
            alike[found] = alike.get(found, 0) + 1
    for one, count in alike.items():
        yield replace(one, count=count)


def _fullest(tensors: list[_Tensor], blocks: int, setup: TrainingSetup) -> list[_Tensor]:
    """Tensors of the device of a pipeline that holds most."""
    pieces = setup.pipeline_parallel
    if pieces == 1:
        return tensors
    count = max((tensor.block for tensor in tensors if tensor.block is not None), default=blocks - 1) + 1
    each = -(-count // pieces)
    stages: list[list[_Tensor]] = [[] for _ in range(pieces)]
    for tensor in tensors:
        if tensor.block is not None:
            stages[tensor.block // each].append(tensor)
        elif tensor.role.startswith("embed"):
            stages[0].append(tensor)
        else:
            stages[-1].append(tensor)
    return max(stages, key=lambda stage: sum(tensor.elements for tensor in stage))


class _States:
    """Adds up what is kept for tensors."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.setup = setup
        self.tp = setup.tensor_parallel
        self.sums: dict[str, float] = {}
        self.largest = 0

    def learned(self, tensor: _Tensor) -> int:
        """Parameters that learn because of a tensor: its own, or its adapter's."""
        if tensor.kind == "state":
            return 0
        if not self.setup.lora_rank:
            return tensor.elements
        if tensor.kind != "linear" or not tensor.role.startswith(self.setup.lora_targets) or is_head(tensor.role):
            return 0
        return tensor.count * self.setup.lora_rank * sum(tensor.shape)

    def add(self, tensor: _Tensor) -> None:
        setup = self.setup
        split = (self.tp if tensor.kind in _SHARDED else 1) * (setup.expert_parallel if tensor.expert else 1)
        ranks = max(1, setup.ranks // setup.expert_parallel) if tensor.expert else setup.ranks
        elements = tensor.elements / split
        self.largest = max(self.largest, math.prod(tensor.shape) // (self.tp if tensor.kind in _SHARDED else 1))
        weights = ranks if setup.zero_stage >= 3 else 1
        gradients = ranks if setup.zero_stage >= 2 else 1
        states = ranks if setup.zero_stage >= 1 else 1
        if setup.lora_rank:
            self._book("frozen weights", elements * self._frozen_width(tensor) / weights)
            rank = setup.lora_rank
            learned = tensor.count * rank * sum(tensor.shape) / split if self.learned(tensor) else 0
            self._book("adapters", _LORA_WIDTH * learned / weights)
            self._book("gradients", _LORA_WIDTH * learned / gradients)
            if learned:
                pair = sum(
                    state_bytes(setup.optimizer, (rank, side), "linear", width=_LORA_WIDTH) for side in tensor.shape
                )
                self._book("optimizer states", tensor.count * pair / split / states)
            return
        self._book("weights", setup.weight_width * elements / weights)
        if tensor.kind == "state":
            return
        self._book("gradients", setup.weight_width * elements / gradients)
        if setup.wide_gradients and setup.weight_width == 2:
            self._book("gradients in 32 bits", 4 * elements / gradients)
        if setup.has_master_weights:
            self._book("master weights", 4 * elements / states)
        wide = setup.has_master_weights or setup.weight_width == 4
        each = state_bytes(
            setup.optimizer, tensor.shape, tensor.kind, in_block=tensor.block is not None, width=4 if wide else 2
        )
        self._book("optimizer states", tensor.count * each / split / states)

    def _frozen_width(self, tensor: _Tensor) -> float:
        setup = self.setup
        if setup.base_bits and tensor.kind == "linear" and tensor.block is not None:
            # Scales of eight bits for each group, and one of 32 for 256 of those (arXiv 2305.14314).
            return (setup.base_bits + 8 / setup.base_group + 32 / (256 * setup.base_group)) / 8
        return 2.0 if setup.precision == "autocast" else setup.weight_width

    def _book(self, name: str, count: float) -> None:
        self.sums[name] = self.sums.get(name, 0) + count

    def placed(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Parts on the device, in the node's memory and on its drives."""
        setup = self.setup
        places: dict[str, dict[str, int]] = {"device": {}, "host": {}, "nvme": {}}
        for name, count in self.sums.items():
            place = "device"
            if name in ("optimizer states", "master weights", "gradients in 32 bits"):
                place = setup.offload_optimizer
            elif name == "gradients" and setup.offload_optimizer != "device":
                place = "host"
            elif name in ("weights", "frozen weights"):
                place = setup.offload_parameters
            if count:
                places[place][name] = math.ceil(count)
        if setup.zero_stage == 3:
            # The largest module's weights are gathered whole, and its gradients made whole.
            places["device"]["gathered module"] = 2 * setup.weight_width * self.largest
        elif setup.offload_optimizer != "device":
            places["device"]["gradients on their way"] = setup.weight_width * self.largest
        if setup.base_bits:
            places["device"]["dequantized map"] = setup.compute_width * self.largest
        return places["device"], places["host"], places["nvme"]


def _learning(tensors: list[_Tensor], setup: TrainingSetup) -> frozenset[str]:
    return frozenset(
        tensor.role
        for tensor in tensors
        if tensor.kind == "linear" and tensor.role.startswith(setup.lora_targets) and not is_head(tensor.role)
    )


def _checkpointed(found: Activations, setup: TrainingSetup) -> tuple[int, int]:
    """Bytes kept for the backward pass, and of the block it computes again."""
    count = len(found.blocks)
    stage = -(-count // setup.pipeline_parallel)
    # One forward, one backward: the first device has as many batches in flight as there are devices.
    flight = setup.pipeline_parallel

    def most(values: tuple[int, ...]) -> int:
        return max((sum(values[at : at + stage]) for at in range(0, count, stage)), default=0) * flight

    whole = tuple(map(sum, zip(found.blocks, found.scores, strict=True)))
    if setup.checkpointing == "full":
        return most(found.inputs) + found.outside, max(whole, default=0)
    if setup.checkpointing == "selective":
        return most(found.blocks) + found.outside, max(found.scores, default=0)
    return most(whole) + found.outside, 0


def _phases(parts: Mapping[str, int], setup: TrainingSetup) -> dict[str, int]:
    passing = ("activations", "recomputed block", "logits and loss", "weights in 16 bits")
    forward = sum(parts.get(name, 0) for name in passing)
    new = 0 if setup.accumulate else sum(count for name, count in parts.items() if name.startswith("gradients"))
    lasting = sum(parts.values()) - forward - new
    # A block computed again meets the gradients of the blocks behind it, not the logits.
    late = parts.get("activations", 0) // 2 + parts.get("recomputed block", 0) + new // 2
    return {
        "backward pass begins": lasting + forward - parts.get("recomputed block", 0),
        "backward pass": lasting + late,
        "optimizer steps": lasting + new,
    }
