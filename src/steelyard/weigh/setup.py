"""How a model is trained: everything that its memory depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steelyard.errors import UserError
from steelyard.weigh.optimizers import OPTIMIZERS, Optimizer

Precision = Literal["fp32", "autocast", "bf16", "fp16"]
Checkpointing = Literal["none", "selective", "full"]
Place = Literal["device", "host", "nvme"]

_PRECISIONS = ("fp32", "autocast", "bf16", "fp16")
_CHECKPOINTING = ("none", "selective", "full")
_PLACES = ("device", "host", "nvme")


@dataclass(frozen=True)
class TrainingSetup:
    """One way to train a model.

    Attributes:
        batch: sequences of one forward pass on one device.
        sequence: tokens of each.
        optimizer: whose states are kept.
        precision: of weights, gradients and computing; "autocast" computes in 16 bits with weights in 32.
        master_weights: whether the optimizer keeps weights in 32 bits beside those in 16; None for where that is
            usual: with fp16, and with bf16 under ZeRO.
        wide_gradients: whether gradients are also kept in 32 bits, as Megatron's recipes and
            DeepSpeed's estimator do.
        accumulate: whether gradients are there already when a forward pass begins, as with gradient accumulation.
        checkpointing: what the backward pass computes again: nothing, attention ("selective"), or every block.
        flash_attention: whether attention is one kernel that keeps no weights of pairs.
        zero_stage: 1 splits the optimizer's states among the ranks, 2 gradients too, 3 weights too; FSDP's full
            sharding is 3, its SHARD_GRAD_OP 2.
        ranks: of data parallelism.
        offload_optimizer: where states and master weights are.
        offload_parameters: where weights are between uses; only with stage 3.
        tensor_parallel: devices that split every matrix.
        sequence_parallel: whether they split the positions of norms and residuals too.
        pipeline_parallel: devices that split the blocks; each keeps as many batches in flight.
        expert_parallel: devices that split the experts.
        lora_rank: of adapters, the model itself frozen; 0 for training the model.
        lora_targets: roles or starts of roles of the maps that get one.
        base_bits: of the frozen model's maps in the blocks under QLoRA; 0 for unquantized.
        base_group: elements of those that share a scale of eight bits (double quantization).
    """

    batch: int = 1
    sequence: int = 2048
    optimizer: Optimizer = "adamw"
    precision: Precision = "bf16"
    master_weights: bool | None = None
    wide_gradients: bool = False
    accumulate: bool = False
    checkpointing: Checkpointing = "none"
    flash_attention: bool = True
    zero_stage: int = 0
    ranks: int = 1
    offload_optimizer: Place = "device"
    offload_parameters: Place = "device"
    tensor_parallel: int = 1
    sequence_parallel: bool = False
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ("attn.", "mlp.")
    base_bits: int = 0
    base_group: int = 64

    def __post_init__(self) -> None:
        for name in ("batch", "sequence", "ranks", "tensor_parallel", "pipeline_parallel", "expert_parallel"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a training must be at least 1, got {getattr(self, name)}")
        for name, among in (
            ("optimizer", OPTIMIZERS),
            ("precision", _PRECISIONS),
            ("checkpointing", _CHECKPOINTING),
            ("offload_optimizer", _PLACES),
            ("offload_parameters", _PLACES),
            ("zero_stage", (0, 1, 2, 3)),
        ):
            if getattr(self, name) not in among:
                raise UserError(
                    f"{name} of a training is one of {', '.join(map(str, among))}, got {getattr(self, name)!r}"
                )
        if self.offload_parameters != "device" and self.zero_stage < 3:
            raise UserError("weights are offloaded only under ZeRO's stage 3; set zero_stage to 3")
        if self.lora_rank < 0 or self.base_bits < 0 or self.base_group < 1:
            raise UserError("lora_rank and base_bits must be at least 0, base_group at least 1")
        if self.base_bits and not self.lora_rank:
            raise UserError("base_bits quantizes a frozen model, so it needs adapters; set lora_rank")

    @property
    def weight_width(self) -> int:
        """Bytes of a weight."""
        return 4 if self.precision in ("fp32", "autocast") else 2

    @property
    def compute_width(self) -> int:
        """Bytes of a number that the model computes with."""
        return 4 if self.precision == "fp32" else 2

    @property
    def has_master_weights(self) -> bool:
        """Whether the optimizer keeps weights in 32 bits beside those in 16."""
        if self.weight_width == 4:
            return False
        if self.master_weights is not None:
            return self.master_weights
        return self.precision == "fp16" or self.zero_stage > 0
