"""An architecture: a table of data from which names, shapes, ties and the cache of a model follow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from steelyard.errors import UserError
from steelyard.spec.cache import Kept
from steelyard.spec.compute import Attention, Work
from steelyard.spec.rules import Rule
from steelyard.spec.settings import Settings
from steelyard.spec.tensor import Task


@dataclass(frozen=True)
class ByLayer:
    """The length of an axis that differs from block to block.

    Attributes:
        size: its length for the numbers that stand for the placeholders of a name, such as {"layer": 3}.
        largest: its greatest length over all blocks.
    """

    size: Callable[[Settings, Mapping[str, int]], int]
    largest: Callable[[Settings], int]


Size = int | str | Callable[[Settings], int] | ByLayer
"""The length of an axis: a number, a config key, a function of the settings, or one that differs by block."""

# Ten times those of the largest published models with an expert to a matrix.
_MOST_TENSORS = 2_000_000

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")

# By the endings of transformers' class names.
_TASKS: tuple[tuple[str, Task], ...] = (
    ("ForCausalLM", "causal"),
    ("LMHeadModel", "causal"),
    ("DoubleHeadsModel", "causal"),
    ("ForMaskedLM", "masked"),
    ("ForPreTraining", "masked"),
)


@dataclass(frozen=True)
class Match:
    """The rule a name fits and the numbers in it."""

    rule: Rule
    numbers: Mapping[str, int]


@dataclass(frozen=True)
class Stack:
    """One stack of blocks of a model.

    Attributes:
        axis: that numbers them in the names.
        block: pattern of the names' start within one of them.
        before: how many blocks the stacks before it have; the model's numbers of its blocks start there.
        blocks: how many it has.
    """

    axis: str
    block: str
    before: int
    blocks: int


@dataclass(frozen=True)
class Architecture:
    """The table of one model type.

    Attributes:
        model_type: `model_type` of config.json.
        base_class: class without a head; names in its files lack the prefix.
        bare: endings of other classes whose files lack the prefix all the same.
        default_class: class taken for a config that names none.
        prefix: what names start with in files of classes with a head; a file may lack it.
        block: pattern of the names' start within one block: "model.layers.{layer}.".
        stacks: the same for every stack of blocks beside that one, by the axis that numbers its blocks:
            {"decoder_layer": "decoder.block.{decoder_layer}."}.
        defaults: what absent config keys mean; transformers' defaults.
        sizes: length of every named axis; placeholders of patterns are axes too.
        rules: the rows.
        ties: alias and canonical name of weights that are one tensor when `tie_word_embeddings` is on. A
            canonical name may itself be an alias of another; the last one that a class has counts.
        always_tied: those of the aliases that are tied whatever `tie_word_embeddings` says.
        renames: endings or starts of names as older files spell them, and as the rules do.
        cache: what it keeps of what it has read, one kind or several; None if it keeps nothing.
        attention: every kind of attention it computes, for counting operations; see `spec.compute`.
        active: for an axis of experts, such as "expert", how many of them work on a token.
        streams: starts of names and the stream of positions that what they name works on, where that is not the
            tokens of the text: (("vision_model.", "image"),). They are compared with the patterns of the rules,
            so a start may hold {layer}. The first that fits counts.
        positions: length of every stream that the config tells: {"image": patches}. Others are as long as the text.
        unbatched: streams that are the same for all sequences of a batch, such as relative positions.
        work: operations that are no products with the matrices, for counting.
        extra_blocks: how many blocks a checkpoint may hold after those of the model, such as DeepSeek's for
            predicting further tokens; they are kept as stored.
        once: roles that work once on a sequence, not on every position: poolers, classifiers.
    """

    model_type: str
    base_class: str
    default_class: str
    prefix: str
    block: str
    defaults: Mapping[str, Any]
    sizes: Mapping[str, Size]
    rules: tuple[Rule, ...]
    ties: Mapping[str, str] = field(default_factory=dict)
    always_tied: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    cache: Kept | tuple[Kept, ...] | None = None
    attention: tuple[Attention, ...] = ()
    active: Mapping[str, Size] = field(default_factory=dict)
    streams: tuple[tuple[str, str], ...] = ()
    positions: Mapping[str, Size] = field(default_factory=dict)
    unbatched: tuple[str, ...] = ()
    work: tuple[Work, ...] = ()
    stacks: Mapping[str, str] = field(default_factory=dict)
    bare: tuple[str, ...] = ()
    extra_blocks: Callable[[Settings], int] | None = None
    once: tuple[str, ...] = ("pooler", "classifier")

    def settings(self, config: Mapping[str, Any]) -> Settings:
        """The config with this architecture's defaults."""
        return Settings(config, self.defaults)

    def class_of(self, config: Mapping[str, Any]) -> str:
        """The class the config names, or the default one."""
        return class_name(config) or self.default_class

    def axis_size(self, axis: str, settings: Settings, numbers: Mapping[str, int] | None = None) -> int:
        """Return the length of a named axis or of a product such as "head*head_dim".

        Args:
            axis: its name.
            settings: the config.
            numbers: what stands for the placeholders of a name, such as {"layer": 3}; without them an axis that
                differs from block to block has its greatest length.

        Raises:
            UserError: if a config key it depends on is not a positive whole number.
        """
        return math.prod(self._single(name, settings, numbers) for name in axis.split("*"))

    def active_size(self, axis: str, settings: Settings) -> int | None:
        """Return how many along an axis of experts work on a token; None for other axes."""
        return _length(self.active[axis], settings, None) if axis in self.active else None

    def stream_length(self, stream: str, settings: Settings) -> int | None:
        """Return the positions of a stream the config tells; None for others, which are as long as the text."""
        return _length(self.positions[stream], settings, None) if stream in self.positions else None

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Every kind of thing it keeps of what it has read."""
        if self.cache is None:
            return ()
        return self.cache if isinstance(self.cache, tuple) else (self.cache,)

    def _single(self, axis: str, settings: Settings, numbers: Mapping[str, int] | None) -> int:
        return _length(self.sizes[axis], settings, numbers)

    def shape(
        self, rule: Rule, settings: Settings, numbers: Mapping[str, int] | None = None
    ) -> tuple[int, ...] | None:
        """Return the shape the config asks for; None if it does not say. For `numbers` see `axis_size`."""
        return None if rule.axes is None else tuple(self.axis_size(axis, settings, numbers) for axis in rule.axes)

    def varies(self, rule: Rule) -> bool:
        """Whether the shape of a rule's tensors differs from block to block."""
        axes = (axis for dimension in rule.axes or () for axis in dimension.split("*"))
        return any(isinstance(self.sizes[axis], ByLayer) for axis in axes)

    def match(self, name: str) -> Match | None:
        """Return the rule that a name (with its prefix) fits."""
        name = self.rename(name)
        for rule, pattern in self._lookup.get(_NUMBER.sub("#", name), ()):
            found = pattern.fullmatch(name)
            if found is not None:
                return Match(rule, {axis: int(number) for axis, number in found.groupdict().items()})
        return None

    def rename(self, name: str) -> str:
        """Return a name as the rules spell it, from the spelling of older files."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    @cached_property
    def _lookup(self) -> Mapping[str, list[tuple[Rule, re.Pattern[str]]]]:
        # Names with their numbers blanked out: one dictionary look-up instead of a scan of all the rules.
        table: dict[str, list[tuple[Rule, re.Pattern[str]]]] = {}
        for rule in self.rules:
            literals = _PLACEHOLDER.split(rule.pattern)
            pattern = "".join(
                f"(?P<{part}>\\d+)" if position % 2 else re.escape(part) for position, part in enumerate(literals)
            )
            key = _NUMBER.sub("#", _PLACEHOLDER.sub("0", rule.pattern))
            table.setdefault(key, []).append((rule, re.compile(pattern)))
        return table

    def names(self, rule: Rule, settings: Settings) -> Iterator[str]:
        """Yield every name the rule stands for in a model of this config."""
        for numbers in self.places(rule, settings):
            yield rule.pattern.format(**numbers)

    def places(self, rule: Rule, settings: Settings) -> Iterator[dict[str, int]]:
        """Yield what stands for the placeholders of every name of a rule in a model of this config."""
        axes = list(dict.fromkeys(_PLACEHOLDER.findall(rule.pattern)))
        return (numbers for numbers in self._numbers(axes, settings) if rule.holds_for(settings, numbers))

    def _numbers(self, axes: list[str], settings: Settings) -> Iterator[dict[str, int]]:
        # Unlike itertools.product lazy in its ranges, which come from a config that may ask for any number.
        if not axes:
            yield {}
            return
        for number in range(self.axis_size(axes[0], settings)):
            for rest in self._numbers(axes[1:], settings):
                yield {axes[0]: number, **rest}

    def tied(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Return alias and canonical name of the tensors that a model of this config shares."""
        if not self.ties:
            return {}
        settings, owner = self.settings(config), self.class_of(config)
        every = settings.flag("tie_word_embeddings")

        def has(name: str) -> bool:
            match = self.match(name)
            return match is not None and match.rule.belongs_to(owner) and match.rule.applies(settings)

        ties = {alias: name for alias, name in self.ties.items() if every or alias in self.always_tied}
        ties = {alias: name for alias, name in ties.items() if has(alias) and has(name)}
        return {alias: ties.get(name, name) for alias, name in ties.items()}

    def stacks_of(self, config: Mapping[str, Any]) -> tuple[Stack, ...]:
        """Return the stacks of blocks that a model of this config has, in the order their blocks are numbered."""
        settings, owner = self.settings(config), self.class_of(config)
        stacks: list[Stack] = []
        for axis, block in {"layer": self.block, **self.stacks}.items():
            if self.has_stack(axis, owner):
                before = sum(stack.blocks for stack in stacks)
                stacks.append(Stack(axis, block, before, self.axis_size(axis, settings)))
        return tuple(stacks)

    def has_stack(self, axis: str, owner: str) -> bool:
        """Whether models of a class have the blocks that an axis numbers; "" stands for no blocks.

        Args:
            axis: such as "layer" or "decoder_layer".
            owner: name of the class.
        """
        block = {"layer": self.block, **self.stacks}.get(axis)
        if block is None or not self.stacks:
            return True
        rows = (rule for rule in self.rules if rule.pattern.startswith(block) and not rule.optional)
        return any(rule.belongs_to(owner) for rule in rows)

    def expected_shapes(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return every tensor a model of this config has, tied ones once, from the table alone.

        Args:
            config: as read from config.json.

        Raises:
            UserError: if the config gives an axis no usable length, or asks for an absurd number of tensors.
        """
        settings = self.settings(config)
        owner = self.class_of(config)
        tied = self.tied(config)
        shapes: dict[str, tuple[int, ...]] = {}
        bare = owner == self.base_class or (bool(self.bare) and owner.endswith(self.bare))
        for rule in self.rules:
            if rule.axes is None or not rule.belongs_to(owner) or not rule.applies(settings):
                continue
            same = None if self.varies(rule) else self.shape(rule, settings)
            for numbers in self.places(rule, settings):
                name = rule.pattern.format(**numbers)
                shape = same or self.shape(rule, settings, numbers)
                if len(shapes) >= _MOST_TENSORS:
                    places = "".join(f" of {axis}" for axis in numbers)
                    raise UserError(
                        f"config.json asks for more than {_MOST_TENSORS:,} tensors; correct the number{places}"
                    )
                if shape is not None and name not in tied:
                    shapes[name.removeprefix(self.prefix) if bare else name] = shape
        return shapes


def _length(size: Size, settings: Settings, numbers: Mapping[str, int] | None) -> int:
    if isinstance(size, ByLayer):
        return size.largest(settings) if numbers is None else size.size(settings, numbers)
    if callable(size):
        return size(settings)
    return settings.size(size) if isinstance(size, str) else size


def class_name(config: Mapping[str, Any]) -> str:
    """Return the first class under `architectures` in config.json, "" if there is none.

    Raises:
        UserError: if it is not a list of names.
    """
    named = config.get("architectures") or [""]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise UserError(f"config.json: architectures must be a list of class names, got {named!r}")
    return named[0]


def task_of(class_name: str) -> Task:
    """Return what a class is for, from the ending of its name."""
    return next((task for ending, task in _TASKS if class_name.endswith(ending)), "encoder")


def label_count(settings: Settings) -> int:
    """Return the number of classes a classification head tells apart: two where the config lists none."""
    labels = settings.get("id2label")
    if labels is not None and not isinstance(labels, Mapping):
        raise UserError(f"config.json: id2label must map numbers to labels, got {labels!r}")
    return len(labels or ()) or 2
