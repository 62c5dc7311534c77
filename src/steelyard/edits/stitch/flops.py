"""Operations of a composition for each token of a prompt, from what its parents' would take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.formats.native.composition import PARENTS, Composition, parse_joint
from steelyard.spec import ModelSpec
from steelyard.weigh.flops import prefill


def _blocks(config: Mapping[str, Any], count: int, tokens: int) -> int:
    """Return the operations of so many blocks of a model for a whole prompt."""
    if count == 0:
        return 0
    return prefill(ModelSpec.from_config({**config, "num_hidden_layers": count}), tokens).without_head


def _head(config: Mapping[str, Any], tokens: int) -> int:
    return prefill(ModelSpec.from_config(dict(config)), tokens).head


def way_flops(composition: Composition, way: str, tokens: int) -> int:
    """Return the operations a way through stitched models takes for each token.

    Counted as `steelyard weigh` counts them: products of matrices and of attention, two for each multiplication.

    Args:
        composition: the models and joints.
        way: its name.
        tokens: of the prompt, that attention looks back over.
    """
    first, second = composition.configs
    if way in PARENTS:
        config = composition.configs[PARENTS.index(way)]
        return round(prefill(ModelSpec.from_config(dict(config)), tokens).total / tokens)
    done, entered = parse_joint(way)
    total = _blocks(first, done, tokens) + _blocks(second, composition.depths[1] - entered, tokens)
    total += 2 * composition.widths[0] * composition.widths[1] * tokens
    return round((total + _head(second, tokens)) / tokens)


def bridge_flops(composition: Composition, tokens: int) -> int:
    """Return the operations an anchor with its bridges takes for each token of a prompt."""
    first, second = composition.configs
    width, other = composition.widths
    each = 2 * width * other + 4 * 2 * width * width + 2 * 2 * width * tokens
    total = prefill(ModelSpec.from_config(dict(first)), tokens).total
    total += _blocks(second, composition.blocks_of(1), tokens)
    return round(total / tokens) + len(composition.joints) * each
