r"""Which modules a group of compressed-tensors' config means: written without doubt, read as its loader reads.

A target is an exact name, `re:` and a regular expression, or the name of a class. Exact names alone are a trap: a
model loaded without its head (`AutoModel`), or under another one, calls its modules otherwise. Then nothing
matches, the packed tensors are unexpected, and the loader draws the weights at random after a warning. So a target
here leaves the base model's prefix open, names layers one by one, and can match nothing else:
`re:(model\.)?layers\.(0|3)\.mlp\.up_proj$`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from steelyard.spec import ModelSpec
from steelyard.spec.tensor import module_of

_REGEX = "re:"


def module_name(spec: ModelSpec, name: str) -> str:
    """Return what transformers calls the module of a tensor, where files spell it as older releases did."""
    return module_of(name if spec.architecture is None else spec.architecture.rename(name))


def make_targets(spec: ModelSpec, modules: Sequence[str]) -> list[str]:
    """Return targets that match these modules of the model, with and without a head, and no others.

    Args:
        spec: the model.
        modules: as `module_name` gives them.
    """
    layers: dict[tuple[str, str], list[int]] = {}
    for module in modules:
        number, (before, after) = _cut(spec, module)
        layers.setdefault((before, after), []).extend([] if number is None else [number])
    return [_target(spec, before, numbers, after) for (before, after), numbers in layers.items()]


def matching(targets: Iterable[str], module: str, kind: str = "") -> list[str]:
    """Return the targets that match a module, the one that counts first: exact names, expressions, then classes.

    Args:
        targets: of all groups.
        module: its name.
        kind: name of its class.

    Source: `match_targets` of compressed-tensors 0.20, whose order this is.
    """
    ordered = sorted(targets, key=lambda target: (_REGEX in target, target))
    by_name = [target for target in ordered if _matches(target, module)]
    return by_name + [target for target in ordered if target == kind and target not in by_name]


def _matches(target: str, module: str) -> bool:
    if target.startswith(_REGEX):
        return re.match(target.removeprefix(_REGEX), module) is not None
    return target == module


def spellings(spec: ModelSpec, module: str) -> tuple[str, ...]:
    """Return what a module is called in the models that load it: without and with the base model's prefix."""
    bare = _bare(spec, module)
    if bare is None:
        return (module,)
    assert spec.architecture is not None
    return (bare, spec.architecture.prefix + bare)


def _bare(spec: ModelSpec, module: str) -> str | None:
    """Return a module's name without the base model's prefix; None for what the base model does not have."""
    architecture = spec.architecture
    if architecture is None or not architecture.prefix:
        return None
    if module.startswith(architecture.prefix):
        return module.removeprefix(architecture.prefix)
    known = architecture.match(f"{architecture.prefix}{module}.weight") is not None
    return module if known and architecture.match(f"{module}.weight") is None else None


def _cut(spec: ModelSpec, module: str) -> tuple[int | None, tuple[str, str]]:
    """Return the layer of a module and its name before and after that number."""
    for prefix in spec.block_prefixes:
        if module.startswith(prefix):
            # Its number in its own stack; a model may have several.
            number = int(prefix.removesuffix(".").rpartition(".")[2])
            return number, (prefix.removesuffix(f"{number}."), module.removeprefix(prefix))
    return None, (module, "")


def _target(spec: ModelSpec, before: str, numbers: Sequence[int], after: str) -> str:
    whole = f"{before}{numbers[0]}.{after}" if numbers else before
    bare = _bare(spec, whole)
    if bare is None and not numbers:
        return whole
    if bare is None:
        opening = ""
    else:
        assert spec.architecture is not None
        opening = f"({re.escape(spec.architecture.prefix)})?"
        before = before.removeprefix(spec.architecture.prefix)
    if not numbers:
        return f"{_REGEX}{opening}{re.escape(before)}$"
    chosen = "|".join(map(str, numbers))
    return f"{_REGEX}{opening}{re.escape(before)}({chosen})\\.{re.escape(after)}$"
