"""Two models side by side: what grew, what shrank, and which tensors differ in shape, type or value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from steelyard.progress import SILENT, Progress
from steelyard.weigh.counts import Row, Weighing, weigh
from steelyard.weights import Checkpoint, bytes_hash
from steelyard.weights.hashing import raw_bytes

Kind = Literal["added", "removed", "shape", "type", "values"]


@dataclass(frozen=True)
class Difference:
    """One tensor that differs.

    Attributes:
        name: of the tensor.
        kind: "added" if the second model alone has it, "removed" if the first alone, else what differs.
        before: as the first model has it, "" if it has it not.
        after: as the second has it.
        bytes: what the second stores for it beyond the first.
    """

    name: str
    kind: Kind
    before: str
    after: str
    bytes: int


@dataclass(frozen=True)
class Change:
    """A role's parameters and bytes in both models."""

    role: str | None
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Comparison:
    """Two models side by side.

    Attributes:
        before: the first.
        after: the second.
        roles: those of either, in the order of the first.
        differences: tensors that differ, in the order of the second, what was removed last.
        equal: tensors that are the same in both.
        compared_values: whether values were looked at; not where a model has no safetensors.
    """

    before: Weighing
    after: Weighing
    roles: tuple[Change, ...]
    differences: tuple[Difference, ...]
    equal: int
    compared_values: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "before": self.before.subject.location,
            "after": self.after.subject.location,
            "parameters": [self.before.parameters.unique, self.after.parameters.unique],
            "bytes": [self.before.nbytes.total, self.after.nbytes.total],
            "roles": [asdict(change) for change in self.roles],
            "differences": [asdict(difference) for difference in self.differences],
            "equal": self.equal,
            "compared_values": self.compared_values,
        }


def compare(before: str | Path, after: str | Path, progress: Progress = SILENT) -> Comparison:
    """Compare two models. Values are compared by their BLAKE3 where type and shape are equal.

    Args:
        before: a model, as `weigh` takes it.
        after: another.
        progress: advanced by the bytes hashed.

    Raises:
        UserError: for anything missing, damaged or contradictory.
    """
    first, second = weigh(before), weigh(after)
    differences: list[Difference] = []
    alike: list[str] = []
    for name, holding in second.subject.holdings.items():
        there = first.subject.holdings.get(name)
        if there is None:
            differences.append(Difference(name, "added", "", _described(second, name), holding.nbytes))
        elif (there.shape, there.encoding, there.nbytes) != (holding.shape, holding.encoding, holding.nbytes):
            kind: Kind = "type" if there.shape == holding.shape else "shape"
            more = holding.nbytes - there.nbytes
            differences.append(Difference(name, kind, _described(first, name), _described(second, name), more))
        else:
            alike.append(name)
    values = first.source == second.source == "weights"
    changed = _changed(first, second, alike, progress) if values else {}
    differences += [Difference(name, "values", *hashes, 0) for name, hashes in changed.items()]
    for name, holding in first.subject.holdings.items():
        if name not in second.subject.holdings:
            differences.append(Difference(name, "removed", _described(first, name), "", -holding.nbytes))
    return Comparison(first, second, _roles(first, second), tuple(differences), len(alike) - len(changed), values)


def _changed(
    first: Weighing, second: Weighing, names: list[str], progress: Progress
) -> Mapping[str, tuple[str, str]]:
    """Return the hashes, shortened, of the tensors whose stored bytes differ."""
    changed = {}
    progress.start("comparing values", sum(second.subject.holdings[name].nbytes for name in names), "B")
    with (
        Checkpoint.open(first.subject.location) as before,
        Checkpoint.open(second.subject.location) as after,
    ):
        for name in names:
            hashes = [
                bytes_hash(b"".join(bytes.fromhex(_hash(checkpoint, part)) for part in sorted(holding.stored)))
                for checkpoint, holding in (
                    (before, first.subject.holdings[name]),
                    (after, second.subject.holdings[name]),
                )
            ]
            if hashes[0] != hashes[1]:
                changed[name] = (hashes[0][:12], hashes[1][:12])
            progress.advance(second.subject.holdings[name].nbytes)
    progress.finish()
    return changed


def _hash(checkpoint: Checkpoint, name: str) -> str:
    digest = bytes_hash(raw_bytes(checkpoint.tensor(name)))
    checkpoint.advise_done(name)
    return digest


def _described(weighed: Weighing, name: str) -> str:
    holding = weighed.subject.holdings[name]
    return f"{holding.encoding} {list(holding.shape)}"


def _roles(first: Weighing, second: Weighing) -> tuple[Change, ...]:
    before, after = ({row.role: row for row in weighed.by_role()} for weighed in (first, second))
    none = Row(None, None, "", 0, 0, 0, 0, 0, 0)
    return tuple(
        Change(
            role,
            before.get(role, none).parameters,
            after.get(role, none).parameters,
            before.get(role, none).nbytes,
            after.get(role, none).nbytes,
        )
        for role in dict.fromkeys([*before, *after])
    )
