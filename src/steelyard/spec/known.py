"""A checkpoint whose architecture has a table: roles, ties and fused groups as the table declares them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture
from steelyard.spec.conventions import guess_tensor
from steelyard.spec.matching import Entry, match_names
from steelyard.spec.reading import Reading, Shapes
from steelyard.spec.tensor import FusedGroup, TensorSpec, module_of

# Messages name a few tensors, not thousands.
_NAMED = 3


def read_known(
    architecture: Architecture, config: Mapping[str, Any], shapes: Shapes, untied: Collection[str]
) -> Reading:
    """Sort out the tensors of a checkpoint by its architecture's table.

    Args:
        architecture: the table.
        config: as read from config.json.
        shapes: what the checkpoint holds.
        untied: aliases of declared ties to keep as tensors of their own, because their values differ.

    Raises:
        UserError: if a shape is at odds with the config, a tensor is missing, or a number in a name is out of
            the config's range.
    """
    entries = match_names(architecture, config, shapes)
    ties = _ties(architecture, config, entries, untied)
    _require(architecture, config, entries, ties)
    aliases = tuple(name for name in ties if name in shapes)

    by_name = {entry.name: entry for entry in entries.values()}
    tensors: dict[str, TensorSpec] = {}
    for name, (shape, dtype) in shapes.items():
        if name not in aliases:
            entry = by_name.get(name)
            known = entry.tensor(tuple(shape), dtype) if entry else guess_tensor(name, tuple(shape), dtype)
            tensors[name] = known
    kept = [by_name[name] for name in tensors if name in by_name]

    bare = any(entry.dropped and entry.layer is not None for entry in kept)
    dropped = architecture.prefix if bare else ""
    blocks = [
        stack.block.removeprefix(dropped).format(**{stack.axis: number})
        for stack in architecture.stacks_of(config)
        for number in range(stack.blocks)
    ]
    return Reading(
        tensors=tensors,
        ties=ties,
        stored_aliases=aliases,
        groups=_groups(architecture, kept),
        n_layers=len(blocks),
        block_prefixes=tuple(blocks),
        input_keys=_input_keys(tensors, kept, ties),
        notes=tuple(_notes(architecture, config, tensors, kept, untied)),
    )


def _ties(
    architecture: Architecture, config: Mapping[str, Any], entries: Mapping[str, Entry], untied: Collection[str]
) -> dict[str, str]:
    """Alias and canonical name of the declared ties; the canonical one is always stored."""
    ties: dict[str, str] = {}
    for pair in architecture.tied(config).items():
        # Where a file holds only the alias, that is the one to keep.
        alias, canonical = pair if pair[1] in entries else pair[::-1]
        if canonical not in entries:
            continue
        dropped = entries[canonical].dropped
        alias = entries[alias].name if alias in entries else alias.removeprefix(dropped)
        if alias not in untied:
            ties[alias] = entries[canonical].name
    return ties


def _require(
    architecture: Architecture, config: Mapping[str, Any], entries: Mapping[str, Entry], ties: Mapping[str, str]
) -> None:
    settings = architecture.settings(config)
    owner = architecture.class_of(config)
    missing: list[str] = []
    for rule in architecture.rules:
        # A config that names no class may be of a model without its head.
        headless = rule.classes and not config.get("architectures")
        if rule.optional or headless or not rule.belongs_to(owner) or not rule.applies(settings):
            continue
        for name in architecture.names(rule, settings):
            # A config may ask for any number of layers: stop once there is enough to say.
            if len(missing) > _NAMED:
                break
            if name not in entries and not {name, name.removeprefix(architecture.prefix)} & ties.keys():
                missing.append(name)
    if missing:
        raise UserError(
            f"the checkpoint lacks {_listed(missing)}, which {owner} has by its config.json; complete the weights "
            "or correct the config"
        )


def _groups(architecture: Architecture, entries: Iterable[Entry]) -> tuple[FusedGroup, ...]:
    # Members stand in the order of the table, whatever the order of the file.
    order = {id(rule): position for position, rule in enumerate(architecture.rules)}
    members: dict[str, list[str]] = {}
    for entry in sorted(entries, key=lambda entry: order[id(entry.rule)]):
        if entry.rule.shared is not None:
            members.setdefault(entry.spell(entry.rule.shared.codec), []).append(entry.name)
    return tuple(FusedGroup(name, tuple(names)) for name, names in members.items() if len(names) > 1)


def _input_keys(
    tensors: Mapping[str, TensorSpec], entries: Iterable[Entry], ties: Mapping[str, str]
) -> dict[str, str]:
    # A tied head reads another input than the embedding it is tied to, so aliases have keys too.
    keys = {alias: module_of(alias) for alias in ties}
    keys |= {name: tensor.module for name, tensor in tensors.items()}
    keys |= {entry.name: entry.spell(entry.rule.shared.input) for entry in entries if entry.rule.shared}
    return keys


def _notes(
    architecture: Architecture,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorSpec],
    entries: Iterable[Entry],
    untied: Collection[str],
) -> Iterable[str]:
    if not config.get("architectures"):
        yield f"config.json names no class under architectures; taken as {architecture.class_of(config)}"
    for name in untied:
        yield f"the config ties {name}, but its values differ: it is kept as a tensor of its own"
    settings = architecture.settings(config)
    unused = [
        entry.name
        for entry in entries
        if not (entry.rule.applies(settings) and entry.rule.holds_for(settings, entry.numbers))
    ]
    if unused:
        yield f"stored although a model of this config does not have them: {_listed(unused)}"
    extra = [name for name, tensor in tensors.items() if tensor.role is None]
    if extra:
        table = f"the table of {architecture.model_type}"
        yield f"not in {table}, so kept as stored, without role and axes: {_listed(extra)}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" and others" if len(names) > _NAMED else "")
