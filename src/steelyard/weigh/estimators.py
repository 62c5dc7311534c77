"""Estimates of the memory of model states by the formulas that others publish, under their names.

Sources: Rajbhandari et al., "ZeRO" (arXiv 1910.02054), section 3; DeepSpeed's page "Memory Requirements", whose
figures the tests repeat, and the functions it documents.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """Bytes of weights, gradients and optimizer states; activations are not in it.

    Attributes:
        device: of each device.
        host: of each node's memory.
    """

    device: int
    host: int


def textbook_zero(parameters: int, stage: int, ranks: int) -> Estimate:
    """Return the textbook's states of mixed-precision Adam: 2 + 2 bytes and 12 more for the optimizer.

    Args:
        parameters: of the model.
        stage: 0 for plain data parallelism, 1 when optimizer states, 2 when gradients too and 3 when weights too
            are split among the ranks.
        ranks: of data parallelism.

    Raises:
        UserError: if there is no such stage.
    """
    if stage not in (0, 1, 2, 3):
        raise UserError(f"the stage of ZeRO is 0, 1, 2 or 3, got {stage}")
    whole = (16, 4, 2, 0)[stage]
    return Estimate(whole * parameters + (16 - whole) * parameters // ranks, 0)


def deepspeed_zero2(
    parameters: int,
    devices_per_node: int,
    nodes: int = 1,
    *,
    offload: bool = False,
    buffer_factor: float = 1.5,
    as_published: bool = False,
) -> Estimate:
    """Return what `estimate_zero2_model_states_mem_needs` of DeepSpeed answers.

    Args:
        parameters: of the model.
        devices_per_node: devices of a node.
        nodes: how many.
        offload: keep the optimizer in the nodes' memory.
        buffer_factor: what it multiplies the nodes' memory by to be on the safe side.
        as_published: count as the page and its printed figures do, 4 bytes on every device and 16 split among
            them; newer releases count 2 and 18.
    """
    devices = devices_per_node * nodes
    if offload:
        return Estimate(2 * parameters, int(parameters * max(4 * devices, 16) * buffer_factor))
    whole, split = (4, 16) if as_published else (2, 18)
    device = whole * parameters + split * parameters // devices
    return Estimate(device, int(parameters * 4 * devices_per_node * buffer_factor))


def deepspeed_zero3(
    parameters: int,
    largest_layer: int,
    devices_per_node: int,
    nodes: int = 1,
    *,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
    built_split: bool = True,
    buffer_factor: float = 1.5,
) -> Estimate:
    """Return what `estimate_zero3_model_states_mem_needs` of DeepSpeed answers.

    Args:
        parameters: of the model.
        largest_layer: parameters of the largest single module, which every device gathers.
        devices_per_node: devices of a node.
        nodes: how many.
        offload_optimizer: keep the optimizer in the nodes' memory.
        offload_parameters: keep the weights there too; only together with the optimizer.
        built_split: build the model in parts (`zero.Init`), not whole on every rank.
        buffer_factor: what it multiplies the nodes' memory by to be on the safe side.

    Raises:
        UserError: if weights are to be offloaded without the optimizer.
    """
    if offload_parameters and not offload_optimizer:
        raise UserError("ZeRO offloads weights only together with the optimizer; offload that too")
    devices = devices_per_node * nodes
    gathered = 4 * largest_layer
    building = parameters * 4 * devices_per_node
    if not offload_optimizer:
        host = (largest_layer if built_split else parameters) * 4 * devices_per_node
        return Estimate(gathered + 18 * parameters // devices, int(host * buffer_factor))
    kept = (18 if offload_parameters else 16) * parameters // nodes
    device = gathered if offload_parameters else gathered + 2 * parameters // devices
    return Estimate(device, int((kept if built_split else max(building, kept)) * buffer_factor))
