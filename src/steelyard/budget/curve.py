"""What a group of tensors can be bought for: points of (bytes, damage)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One way to store a group.

    Attributes:
        nbytes: bytes on disk, with the header entries of every tensor of the group.
        damage: predicted rise of the loss measure (KL in nats per token for language models); 0 is lossless.
        label: how people name this way of storing.
    """

    nbytes: int
    damage: float
    label: str


@dataclass(frozen=True)
class Curve:
    """All points on offer for one group, in the order of its candidates.

    Attributes:
        group: name of the fused group, or of the single tensor.
        points: at least one.
    """

    group: str
    points: tuple[Point, ...]

    def cheapest(self) -> int:
        """Index of the point with the fewest bytes, the less damaging one among equals."""
        return min(range(len(self.points)), key=lambda i: (self.points[i].nbytes, self.points[i].damage))

    def hull(self) -> list[int]:
        """Indices of the lower convex hull, by rising bytes and falling damage."""
        order = sorted(range(len(self.points)), key=lambda i: (self.points[i].nbytes, self.points[i].damage))
        hull: list[int] = []
        for index in order:
            point = self.points[index]
            if hull and point.damage >= self.points[hull[-1]].damage:
                continue
            while len(hull) >= 2 and _turns_up(self.points[hull[-2]], self.points[hull[-1]], point):
                hull.pop()
            hull.append(index)
        return hull


def total(curves: Sequence[Curve], choice: Sequence[int]) -> tuple[int, float]:
    """Return the bytes and the damage of choosing point `choice[k]` of each curve `k`."""
    chosen = [curve.points[index] for curve, index in zip(curves, choice, strict=True)]
    return sum(point.nbytes for point in chosen), sum(point.damage for point in chosen)


def _turns_up(first: Point, middle: Point, last: Point) -> bool:
    """Whether `middle` lies on or above the segment from `first` to `last`."""
    return (middle.damage - first.damage) * (last.nbytes - first.nbytes) >= (last.damage - first.damage) * (
        middle.nbytes - first.nbytes
    )
