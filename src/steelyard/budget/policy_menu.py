"""Menus cut down to what policies allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steelyard.budget.candidates import Offer
from steelyard.budget.policies import Decision, decisions
from steelyard.errors import UserError
from steelyard.formats import Format
from steelyard.formats.container import Container
from steelyard.spec import ModelSpec


def follow(menu: Sequence[Offer], spec: ModelSpec, format: Format, policies: Sequence[str]) -> list[Offer]:
    """Return the menu with one choice alone for every group that policies speak of.

    Raises:
        UserError: if a policy speaks of a part of a group, or of a codec that the format cannot hold.
    """
    if not policies:
        return list(menu)
    if isinstance(format, Container):
        raise UserError(f"policies name codecs, and {format.name} has types of its own; use --keep there")
    said = decisions(spec, policies)
    return [_followed(offer, spec, format, said) for offer in menu]


def _followed(offer: Offer, spec: ModelSpec, format: Format, said: dict[str, Decision]) -> Offer:
    names = [name for name, _ in offer.choices[0]]
    found = [said.get(name) for name in names]
    spoken = [decision for decision in found if decision is not None]
    if not spoken:
        return offer
    if len(spoken) < len(names) or len({decision.codec for decision in spoken}) > 1:
        raise UserError(
            f"policy {spoken[0].policy!r} speaks of a part of {offer.group}, whose members share a codec "
            f"({', '.join(names)}); speak of all of them or add --no-fuse"
        )
    codec = spoken[0].codec
    if codec is None:
        return replace(offer, choices=offer.choices[:1])
    for name in names:
        if not format.supports(spec, name, codec) or (name in spec.ties.values() and not format.packs_tied):
            if not spoken[0].strict:
                return replace(offer, choices=offer.choices[:1])
            raise UserError(
                f"{format.name} cannot hold {name} as {codec.label}, which policy {spoken[0].policy!r} asks for; "
                "use --format steelyard"
            )
    return replace(offer, choices=(tuple((name, codec) for name in names),))
