"""How much a model keeps of what it has read, kind by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.spec.architecture import Architecture
from steelyard.spec.cache import TEXT, State
from steelyard.spec.settings import Settings


@dataclass(frozen=True)
class KeptPart:
    """One kind of thing kept of one sequence.

    Attributes:
        name: "keys and values", "latents", "keys and values of STREAM", or the name of a state.
        stack: axis that numbers its blocks.
        elements: numbers kept in all blocks together.
        per_block: numbers kept in each block of the stack.
    """

    name: str
    stack: str
    elements: int
    per_block: tuple[int, ...]


def kept_elements(
    architecture: Architecture,
    config: Mapping[str, Any],
    context: int,
    *,
    lengths: Mapping[str, int] | None = None,
    expanded: bool = False,
) -> tuple[KeptPart, ...]:
    """Return what a model keeps of one sequence.

    Args:
        architecture: its table.
        config: as read from config.json.
        context: tokens of text.
        lengths: positions of other streams, such as {"source": 512}; by default what the config tells, else the
            context.
        expanded: keep keys and values of all heads where latents would do.

    Raises:
        UserError: if the config gives an axis no usable length.
    """
    settings, owner = architecture.settings(config), architecture.class_of(config)
    parts = []
    for kept in architecture.kept:
        if not architecture.has_stack(kept.stack, owner):
            continue
        blocks = range(architecture.axis_size(kept.stack, settings))
        if isinstance(kept, State):
            each = [
                architecture.axis_size(kept.axes, settings, {kept.stack: block})
                if kept.blocks(settings, block)
                else 0
                for block in blocks
            ]
            parts.append(KeptPart(kept.name, kept.stack, sum(each), tuple(each)))
            continue
        positions = stream_positions(architecture, settings, kept.over, context, lengths)
        latent = bool(kept.latent) and not expanded
        each = []
        for block in blocks:
            if not kept.blocks(settings, block):
                each.append(0)
                continue
            place = {kept.stack: block}
            if latent:
                width = sum(architecture.axis_size(axis, settings, place) for axis in kept.latent)
            else:
                key = architecture.axis_size(kept.width, settings, place)
                value = architecture.axis_size(kept.value or kept.width, settings, place)
                width = architecture.axis_size(kept.heads, settings, place) * (key + value)
            window = kept.window(settings, block)
            each.append(width * (positions if window is None else min(positions, window)))
        name = "latents" if latent else "keys and values"
        if kept.over != TEXT:
            name += f" of the {kept.over}"
        parts.append(KeptPart(name, kept.stack, sum(each), tuple(each)))
    return tuple(parts)


def stream_positions(
    architecture: Architecture,
    settings: Settings,
    stream: str,
    tokens: int,
    lengths: Mapping[str, int] | None = None,
) -> int:
    """Return the positions of a stream.

    Args:
        architecture: the table.
        settings: the config.
        stream: its name.
        tokens: of text.
        lengths: positions of streams where they are not what the config tells.
    """
    if lengths is not None and stream in lengths:
        return lengths[stream]
    told = architecture.stream_length(stream, settings)
    return tokens if told is None else told
