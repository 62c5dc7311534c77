"""The names of a checkpoint held against the rules of a table, with their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture
from steelyard.spec.reading import Shapes
from steelyard.spec.rules import Rule
from steelyard.spec.settings import Settings
from steelyard.spec.tensor import TensorSpec, module_of


@dataclass(frozen=True)
class Entry:
    """A stored tensor and the rule it fits.

    Attributes:
        name: in the checkpoint.
        spelled: as the table spells it: with the prefix, in today's words.
        rule: of the table.
        numbers: what stands for the placeholders of the rule's pattern.
        dropped: the prefix, where the file lacks it; else "".
        layer: number of its block in the model; None outside of the blocks.
    """

    name: str
    spelled: str
    rule: Rule
    numbers: Mapping[str, int]
    dropped: str
    layer: int | None = None

    def spell(self, pattern: str) -> str:
        """Fill in a pattern with this entry's numbers and spell it as the file does."""
        return pattern.format(**self.numbers).removeprefix(self.dropped)

    def tensor(self, shape: tuple[int, ...], dtype: str) -> TensorSpec:
        """Return the tensor as the rule describes it."""
        # Old spellings (LayerNorm.gamma) belong to the module of the new ones.
        module = module_of(self.spelled).removeprefix(self.dropped)
        rule = self.rule
        return TensorSpec(
            self.name, shape, dtype, rule.role, rule.axes, self.layer, module, rule.kind, rule.transposed
        )


def match_names(architecture: Architecture, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Entry]:
    """Return the entry of every stored tensor that fits a rule, by its name as the table spells it.

    Args:
        architecture: the table.
        config: as read from config.json.
        shapes: what the checkpoint holds.

    Raises:
        UserError: if a shape is at odds with the config, a number in a name is out of the config's range, or
            two names are spellings of one tensor.
    """
    expected = _Expected(architecture, architecture.settings(config))
    owner = architecture.class_of(config)
    before = {stack.axis: stack.before for stack in architecture.stacks_of(config)}
    entries: dict[str, Entry] = {}
    for name, (shape, _) in shapes.items():
        entry = _entry(architecture, name, before)
        if entry is None or not _fits(expected, owner, entry, tuple(shape)):
            continue
        if expected.is_extra(entry):
            continue
        _check_numbers(expected, entry)
        other = entries.setdefault(entry.spelled, entry)
        if other is not entry:
            raise UserError(f"{other.name} and {name} are two spellings of one tensor; remove one of them")
    return entries


def _entry(architecture: Architecture, name: str, before: Mapping[str, int]) -> Entry | None:
    for dropped in ("", architecture.prefix):
        match = architecture.match(dropped + name)
        if match is not None:
            numbers = match.numbers
            layer = next((before[axis] + number for axis, number in numbers.items() if axis in before), None)
            return Entry(name, architecture.rename(dropped + name), match.rule, numbers, dropped, layer)
    return None


class _Expected:
    """What the config asks for, worked out once for each rule and axis: a model may have 100,000 tensors."""

    def __init__(self, architecture: Architecture, settings: Settings) -> None:
        self._architecture = architecture
        self._settings = settings
        self._shapes: dict[int, tuple[int, ...] | None] = {}
        self._sizes: dict[str, int] = {}
        extra = architecture.extra_blocks
        self._extra = 0 if extra is None else extra(settings)

    def fresh(self) -> Settings:
        """The settings with nothing asked for yet, to tell what an answer depends on."""
        return self._settings.fresh()

    def shape(self, entry: Entry, settings: Settings | None = None) -> tuple[int, ...] | None:
        """The shape of an entry; None if the config does not say."""
        rule = entry.rule
        if id(rule) in self._shapes and settings is None:
            return self._shapes[id(rule)]
        shape = self._architecture.shape(rule, settings or self._settings, entry.numbers)
        if not self._architecture.varies(rule):
            self._shapes[id(rule)] = shape
        return shape

    def size(self, axis: str, settings: Settings | None = None) -> int:
        """How many there are of what a placeholder numbers."""
        if axis not in self._sizes or settings is not None:
            self._sizes[axis] = self._architecture.axis_size(axis, settings or self._settings)
        return self._sizes[axis]

    def is_extra(self, entry: Entry) -> bool:
        """Whether it belongs to a block after those of the model, which the architecture's files may hold."""
        return self._extra > 0 and 0 <= entry.numbers.get("layer", -1) - self.size("layer") < self._extra


def _fits(expectations: _Expected, owner: str, entry: Entry, shape: tuple[int, ...]) -> bool:
    """Whether the shape is the config's. Heads of other classes may have any shape: then no rule is about them."""
    expected = expectations.shape(entry)
    if expected is None or shape == expected:
        return True
    asked = expectations.fresh()
    expectations.shape(entry, asked)
    if not entry.rule.belongs_to(owner):
        return False
    raise UserError(
        f"{entry.name} has shape {list(shape)}, but config.json asks for {list(expected)} ({asked.described()}); "
        "the weights and config.json belong to different models, or one of them was changed"
    )


def _check_numbers(expected: _Expected, entry: Entry) -> None:
    for axis, number in entry.numbers.items():
        if number >= expected.size(axis):
            asked = expected.fresh()
            expected.size(axis, asked)
            raise UserError(
                f"the checkpoint holds {entry.name}, but config.json says {asked.described()}; correct the config "
                "or remove the tensor"
            )
