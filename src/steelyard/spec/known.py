"""A checkpoint held against the table of its architecture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture, Match
from steelyard.spec.conventions import guess_tensor
from steelyard.spec.reading import Reading, Shapes
from steelyard.spec.rules import Rule
from steelyard.spec.tensor import FusedGroup, TensorSpec, module_of

# Notes name a few tensors, not thousands.
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
    return _Reader(architecture, config, shapes, untied).read()


class _Reader:
    def __init__(
        self, architecture: Architecture, config: Mapping[str, Any], shapes: Shapes, untied: Collection[str]
    ) -> None:
        self.architecture = architecture
        self.config = config
        self.shapes = shapes
        self.untied = untied
        self.settings = architecture.settings(config)
        self.owner = architecture.class_of(config)
        # Names as the table spells them, to the names in the files; and back, for those that have a rule.
        self.stored: dict[str, str] = {}
        self.spelled: dict[str, tuple[str, Match]] = {}
        self.notes: list[str] = []

    def read(self) -> Reading:
        if not self.config.get("architectures"):
            self.notes.append(f"the config names no class in architectures; taken as {self.owner}")
        self._match_names()
        tensors, extra = self._describe()
        ties, aliases = self._ties()
        self._require(ties)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in aliases}
        if extra:
            self.notes.append(
                f"{_some(extra)} {'is' if len(extra) == 1 else 'are'} not in the table of "
                f"{self.architecture.model_type}: kept as stored, without role or axes"
            )
        layers = self.architecture.axis_size("layer", self.settings)
        bare = any(match.numbers and not self._has_prefix(name) for name, (_, match) in self.spelled.items())
        block = self.architecture.block.removeprefix(self.architecture.prefix) if bare else self.architecture.block
        return Reading(
            tensors=tensors,
            ties=ties,
            stored_aliases=tuple(aliases),
            groups=self._groups(tensors),
            n_layers=layers,
            block_prefixes=tuple(block.format(layer=layer) for layer in range(layers)),
            input_keys=self._input_keys(tensors, ties),
            notes=tuple(self.notes),
        )

    def _has_prefix(self, name: str) -> bool:
        return name.startswith(self.architecture.prefix)

    def _match_names(self) -> None:
        for name, (shape, _) in self.shapes.items():
            for spelling in (name, self.architecture.prefix + name):
                match = self.architecture.match(spelling)
                if match is None or not self._fits(match.rule, tuple(shape), name):
                    continue
                full = self.architecture.rename(spelling)
                if full in self.stored:
                    raise UserError(
                        f"the checkpoint holds both {self.stored[full]} and {name}, which are two spellings of "
                        "one tensor; remove one"
                    )
                self._check_numbers(match, name)
                self.stored[full] = name
                self.spelled[name] = (full, match)
                break

    def _fits(self, rule: Rule, shape: tuple[int, ...], name: str) -> bool:
        """Whether the shape is the config's; a tensor that only other classes have may be anything."""
        expected = self.architecture.shape(rule, self.settings)
        if expected is None or shape == expected:
            return True
        if not rule.belongs_to(self.owner):
            return False
        asked = self.settings.fresh()
        self.architecture.shape(rule, asked)
        raise UserError(
            f"{name} has shape {list(shape)}, but config.json asks for {list(expected)} ({asked.described()}); "
            "config.json and the weights belong to different models, or one of them was changed"
        )

    def _check_numbers(self, match: Match, name: str) -> None:
        for axis, number in match.numbers.items():
            asked = self.settings.fresh()
            if number >= self.architecture.axis_size(axis, asked):
                raise UserError(
                    f"the checkpoint holds {name}, but config.json says {asked.described()}; put the number right "
                    "or remove the tensor"
                )

    def _describe(self) -> tuple[dict[str, TensorSpec], list[str]]:
        tensors: dict[str, TensorSpec] = {}
        extra: list[str] = []
        for name, (shape, dtype) in self.shapes.items():
            if name not in self.spelled:
                tensors[name] = guess_tensor(name, tuple(shape), dtype)
                extra.append(name)
                continue
            full, match = self.spelled[name]
            rule = match.rule
            if not rule.applies(self.settings):
                self.notes.append(f"{name} is stored, but a model of this config has no such tensor")
            # Old spellings (LayerNorm.gamma) have the module of the new ones.
            module = module_of(full)
            if not self._has_prefix(name):
                module = module.removeprefix(self.architecture.prefix)
            tensors[name] = TensorSpec(
                name,
                tuple(shape),
                dtype,
                rule.role,
                rule.axes,
                match.numbers.get("layer"),
                module,
                rule.kind,
                rule.transposed,
            )
        return tensors, extra

    def _ties(self) -> tuple[dict[str, str], list[str]]:
        """Alias and canonical name of the declared ties, and the aliases that are stored all the same."""
        ties: dict[str, str] = {}
        stored_aliases: list[str] = []
        for alias, canonical in self.architecture.tied(self.config).items():
            alias_name, canonical_name = self.stored.get(alias), self.stored.get(canonical)
            if alias_name in self.untied or canonical_name in self.untied:
                self.notes.append(
                    f"the config ties {alias_name} to {canonical_name}, but their values differ: both are kept"
                )
            elif canonical_name is not None:
                ties[alias_name or alias] = canonical_name
                if alias_name is not None:
                    stored_aliases.append(alias_name)
            elif alias_name is not None:
                ties[canonical] = alias_name
        return ties, stored_aliases

    def _require(self, ties: Mapping[str, str]) -> None:
        declared = bool(self.config.get("architectures"))
        missing: list[str] = []
        for rule in self.architecture.rules:
            if rule.optional or not rule.belongs_to(self.owner) or not rule.applies(self.settings):
                continue
            if rule.classes and not declared:
                continue
            names = self.architecture.names(rule, self.settings)
            missing += [name for name in names if name not in self.stored and name not in ties]
        if missing:
            raise UserError(
                f"the checkpoint lacks {_some(missing)}, which {self.owner} has by its config.json; complete the "
                "weights or correct the config"
            )

    def _groups(self, tensors: Mapping[str, TensorSpec]) -> tuple[FusedGroup, ...]:
        # Members stand in the order of the table, whatever the order of the file.
        order = {rule: position for position, rule in enumerate(self.architecture.rules)}
        members: dict[str, list[str]] = {}
        for name in sorted(self.spelled, key=lambda name: order[self.spelled[name][1].rule]):
            if name not in tensors:
                continue
            shared = self.spelled[name][1].rule.shared
            if shared is not None:
                members.setdefault(self._formatted(shared.codec, name), []).append(name)
        return tuple(FusedGroup(group, tuple(names)) for group, names in members.items() if len(names) > 1)

    def _input_keys(self, tensors: Mapping[str, TensorSpec], ties: Mapping[str, str]) -> dict[str, str]:
        # A tied head reads its own input, so aliases have keys too.
        keys = {alias: module_of(alias) for alias in ties}
        for name, tensor in tensors.items():
            shared = self.spelled[name][1].rule.shared if name in self.spelled else None
            keys[name] = tensor.module if shared is None else self._formatted(shared.input, name)
        return keys

    def _formatted(self, pattern: str, name: str) -> str:
        formatted = pattern.format(**self.spelled[name][1].numbers)
        return formatted if self._has_prefix(name) else formatted.removeprefix(self.architecture.prefix)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
