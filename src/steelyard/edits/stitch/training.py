"""Training what joins two frozen models: bridges, or the maps of stitches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from steelyard.edits.stitch.options import BridgeOptions, StitchOptions
from steelyard.edits.stitch.parents import Composed
from steelyard.errors import UserError
from steelyard.formats.native.composition import Composition, joint_name
from steelyard.progress import SILENT, Progress
from steelyard.seeds import generator

if TYPE_CHECKING:
    from steelyard.formats.native.composed import SteelyardComposedForCausalLM
    from steelyard.measure.windows import TokenSet


def untrained(composition: Composition, seed: int) -> dict[str, np.ndarray]:
    """Return the tensors of bridges before training: projections drawn, nothing put out: the anchor is as it was.

    Args:
        composition: the models and bridges.
        seed: of the draws, each keyed by the tensor's name.
    """
    found = {}
    for name, shape in composition.added():
        part = name.split(".")[-2]
        if part == "out" or name.endswith(".bias"):
            found[name] = np.zeros(shape, np.float32)
        else:
            drawn = generator(seed, name).standard_normal(shape) / math.sqrt(shape[1])
            found[name] = drawn.astype(np.float32)
    return found


def network(made: Composed) -> SteelyardComposedForCausalLM:
    """Return a composed model in float32, with nothing but what joins its parents to be trained."""
    import torch

    from steelyard.formats.native.composed import SteelyardComposedForCausalLM
    from steelyard.formats.native.composed_config import SteelyardComposedConfig

    config = SteelyardComposedConfig.from_dict({**made.config, "dtype": "float32"})
    model: SteelyardComposedForCausalLM = SteelyardComposedForCausalLM._from_config(config, dtype=torch.float32)
    model.eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in made.names:
            parameters[name].copy_(torch.from_numpy(made.tensor(name).astype(np.float32)))
    added = {name for name, _ in made.composition.added()}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in added)
    return model


def train(
    made: Composed,
    data: TokenSet,
    options: BridgeOptions | StitchOptions,
    progress: Progress = SILENT,
    report: Callable[[int, float], None] | None = None,
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Train what joins the parents of a composed model to predict text; both stay as they are.

    Every step of a stitched model runs another of its stitches, drawn at random, as SN-Net is trained.

    Args:
        made: the model, its joints untrained.
        data: windows of text.
        options: steps, windows a step, learning rate, seed.
        progress: advanced by steps.
        report: told the number and loss of every step.

    Returns:
        The joints' tensors by name, and the loss of every step.

    Raises:
        UserError: if the loss is no longer a number.
    """
    import torch

    from steelyard.measure.windows import IGNORED

    model = network(made)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    adam = torch.optim.AdamW(list(trained.values()), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    losses: list[float] = []
    ways = [joint_name(joint) for joint in made.composition.joints] if made.composition.kind == "stitch" else []
    progress.start("training", options.steps, "steps")
    for step in range(options.steps):
        for group in adam.param_groups:
            group["lr"] = options.learning_rate * _share(step, options)
        draw = generator(options.seed, f"step {step}")
        chosen = draw.choice(len(data.windows), min(options.batch, len(data.windows)), replace=False)
        if ways:
            model.switch(at=ways[int(draw.integers(len(ways)))])
        windows = tuple(data.windows[number] for number in sorted(chosen.tolist()))
        (batch,) = replace(data, windows=windows).batches(
            sum(len(window.inputs) for window in windows) * len(windows)
        )
        logits = model(input_ids=torch.from_numpy(batch.inputs), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(batch.labels).flatten(), ignore_index=IGNORED
        )
        if not bool(torch.isfinite(loss)):
            raise UserError(f"the loss of step {step + 1} is not a number; choose a smaller --learning-rate")
        adam.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        adam.step()
        losses.append(float(loss.detach()))
        if report is not None:
            report(step, losses[-1])
        progress.advance(1)
    progress.finish()
    return {name: tensor.detach().numpy().copy() for name, tensor in trained.items()}, losses


def _share(step: int, options: BridgeOptions | StitchOptions) -> float:
    """Return the share of the greatest learning rate that a step has: up in a line, down in half a cosine."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    left = max(options.steps - options.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * (step - options.warmup) / left))
