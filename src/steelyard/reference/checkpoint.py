"""Checkpoints of a training run: one safetensors file with everything the next step depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.reference.options import TrainOptions

LAST = "checkpoint.safetensors"
"""The state after the last saved step."""

STABLE = "stable.safetensors"
"""The state before the first step of the last decay, from which a run can be made longer."""

_SLOTS = ("momentum", "exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Saved:
    """What a checkpoint says about itself."""

    step: int
    identity: Mapping[str, Any]
    schedule: Mapping[str, Any]

    def suits(self, options: TrainOptions) -> bool:
        """Tell whether a run of `options` would have been in this very state after as many steps."""
        mine = options.schedule()
        begun = self.schedule["decay_steps"] and self.step > self.schedule["steps"] - self.schedule["decay_steps"]
        if begun:
            return dict(self.schedule) == mine
        return self.step <= options.decay_start


def save(path: Path, step: int, options: TrainOptions, model: Any, optimizers: list[Any]) -> None:
    """Write a checkpoint; the file takes its name only when complete."""
    from safetensors.torch import save_file

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, slots in optimizer.state.items():
            for slot, value in slots.items():
                state[f"optimizer.{slot}.{names[id(parameter)]}"] = value
    # One entry: safetensors writes several in no fixed order.
    run = {"step": step, "identity": options.identity(), "schedule": options.schedule()}
    partial = path.with_name(path.name + ".partial")
    metadata = {"run": json.dumps(run, sort_keys=True)}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial, metadata=metadata)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def describe(path: Path) -> Saved:
    """Return what a checkpoint says about itself.

    Raises:
        UserError: if the file is not a checkpoint of a training run.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            run = json.loads((file.metadata() or {})["run"])
        return Saved(run["step"], run["identity"], run["schedule"])
    except (SafetensorError, KeyError, ValueError):
        raise UserError(f"{path} is not a checkpoint of train-reference; delete it to start anew") from None


def restore(path: Path, model: Any, optimizers: list[Any]) -> None:
    """Read the weights and the optimizers' states of a checkpoint into a run of the same identity."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(path)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for slot in _SLOTS:
                    key = f"optimizer.{slot}.{names[id(parameter)]}"
                    if key in tensors:
                        optimizer.state[parameter][slot] = tensors[key]


def choose(folder: Path, options: TrainOptions) -> tuple[Path, int] | None:
    """Return the checkpoint a run of `options` continues from and its step, or None where there is none yet.

    That is the last one or, where its decay was another one, the one before that decay.

    Raises:
        UserError: if the checkpoints belong to other options, or none leads to the schedule asked for.
    """
    found = [(folder / name, describe(folder / name)) for name in (LAST, STABLE) if (folder / name).exists()]
    if not found:
        return None
    for name, value in options.identity().items():
        # Runs from before an option existed did what its default says.
        theirs = found[0][1].identity.get(name, TrainOptions.model_fields[name].default)
        if theirs != value:
            raise UserError(
                f"{folder} was trained with {name} {theirs}, not {value}; use the same options or another folder"
            )
    for path, saved in found:
        if saved.suits(options):
            return path, saved.step
    earliest = min(saved.step for _, saved in found)
    raise UserError(
        f"no checkpoint in {folder} leads to {options.steps} steps with {options.decay_steps} of decay; the "
        f"earliest is at step {earliest}: let the decay begin later, or use another folder"
    )
