"""The `align` job: a model in the order of another, proved to be the same function."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import steelyard
from steelyard.edits.align.diagnostics import Direction, directions
from steelyard.edits.align.forward import in_order, run
from steelyard.edits.align.maps import Maps, distance, identity, mapped
from steelyard.edits.align.opened import Two, open_two
from steelyard.edits.align.options import AlignOptions
from steelyard.edits.align.weights import Matched, match_nearest
from steelyard.edits.prepare.certificate import TOLERANCE, draw_tokens, relative
from steelyard.errors import VerificationError
from steelyard.jobs import OpenModel
from steelyard.progress import SILENT, Progress
from steelyard.units import parse_size
from steelyard.weights import FolderWriter, StoredTensor, bytes_hash, check_output, plan_layout

FILE_NAME = "alignment.json"
"""What was done and proved, beside the weights."""

OWN_FILES = frozenset({"config.json", "steelyard.json", "preparation.json", "report.html", FILE_NAME})
"""Files that speak of a folder's weights and are not carried along."""


@dataclass(frozen=True)
class AlignResult:
    """What `align` made.

    Attributes:
        out: the folder.
        before: length of the difference between the models as they came.
        after: the same in the order that was found.
        moved: units that changed places, by kind of space: stream, ffn, heads' rows.
        same: how far the logits are from the original's in float64, relative to their power.
        directions: how well singular vectors agree before and after.
        sweeps: passes of weight matching; 0 for other methods.
    """

    out: Path
    before: float
    after: float
    moved: dict[str, str]
    same: float
    directions: tuple[Direction, Direction]
    sweeps: int

    @property
    def nbytes(self) -> int:
        """Bytes of the weight files that were written."""
        return sum(path.stat().st_size for path in self.out.iterdir() if ".safetensors" in path.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "distance": {"before": self.before, "after": self.after},
            "moved": self.moved,
            "same_function_in_float64": self.same,
            "singular_directions": {
                "before": self.directions[0].to_dict(),
                "after": self.directions[1].to_dict(),
            },
            "sweeps": self.sweeps,
        }


def align_folder(
    model: str | Path,
    to: str | Path,
    out: str | Path,
    options: AlignOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> AlignResult:
    """Write a model with its units in the order of another's.

    Args:
        model: what is reordered.
        to: whose order counts; it is only read.
        out: the folder to make.
        options: how units are matched.
        resume: go on where an interrupted run stopped.
        progress: advanced by spaces, or by batches of text.

    Raises:
        UserError: if the models do not fit each other, or their family is not known.
        VerificationError: if the reordered model is another function in float64; nothing is written.
    """
    options = options or AlignOptions()
    with open_two(to, model, same_size=True) as two:
        opened = two.second
        path = check_output(out, opened.checkpoint.folder, resume)
        matched = _match(two, options, progress)
        same = certify(opened, two, matched.maps)
        found = directions(two, identity(two.symmetry)), directions(two, matched.maps)
        result = AlignResult(
            path, matched.before, matched.after, _moved(two, matched.maps), same, found, matched.sweeps
        )
        _write(two, path, matched.maps, options, result, resume)
    return result


def _match(two: Two, options: AlignOptions, progress: Progress) -> Matched:
    if options.method == "weights":
        return match_nearest(
            two.symmetry,
            two.read_first,
            two.read_second,
            sweeps=options.sweeps,
            seed=options.seed,
            progress=progress,
        )
    if options.method == "activations":
        from steelyard.edits.align.activations import match_activations

        maps = match_activations(two, options, progress)
    else:
        from steelyard.edits.align.straight_through import match_straight_through

        maps = match_straight_through(two, options, progress)
    plain = identity(two.symmetry)
    before, after = (distance(two.symmetry, found, two.read_first, two.read_second) for found in (plain, maps))
    return Matched(maps, 0, before, after)


def certify(opened: OpenModel, two: Two, maps: Maps) -> float:
    """Compare the reordered model with the original.

    Returns:
        |difference of logits| / |logits| in float64.

    Raises:
        VerificationError: if it is more than rounding.
    """
    tokens = draw_tokens(next(t.shape[0] for t in opened.spec.tensors.values() if t.role == "embed.token"))

    def read(name: str) -> np.ndarray:
        found: np.ndarray = opened.checkpoint.tensor(name)
        return found

    expected = run(opened.spec, read, tokens)
    turned = run(opened.spec, lambda name: mapped(two.symmetry, maps, name, read(name)), tokens)
    same = relative(in_order(opened.spec, turned, maps), expected)
    if not same <= TOLERANCE:
        raise VerificationError(
            f"the reordered model is another function: its logits differ by {same:.1e} in float64; nothing was "
            "written"
        )
    return same


def _moved(two: Two, maps: Maps) -> dict[str, str]:
    counts: dict[str, list[int]] = {}
    for space, found in maps.items():
        kind = space.rpartition(".")[2]
        moved, total = counts.setdefault(kind, [0, 0])
        counts[kind] = [moved + int((found != np.arange(len(found))).sum()), total + len(found)]
    return {kind: f"{moved} of {total}" for kind, (moved, total) in counts.items()}


def _write(two: Two, path: Path, maps: Maps, options: AlignOptions, result: AlignResult, resume: bool) -> None:
    opened = two.second
    spec = opened.spec
    layout = plan_layout(
        [StoredTensor(tensor.name, tensor.dtype, tensor.shape) for tensor in spec.tensors.values()],
        parse_size(options.max_shard_size),
    )
    work = [options.model_dump(mode="json"), [m.checkpoint.content_hash() for m in (two.first, opened)]]
    plan = bytes_hash(json.dumps([*work, steelyard.__version__]).encode())
    with FolderWriter(path, layout, resume=resume, plan_hash=plan, source=opened.checkpoint.folder) as writer:
        for file in layout.files:
            for name in file.tensors:
                if not writer.done(name):
                    turned = mapped(two.symmetry, maps, name, opened.checkpoint.tensor(name))
                    writer.write(name, np.ascontiguousarray(turned))
        writer.add_file("config.json", opened.checkpoint.read_other("config.json"))
        writer.carry(opened.checkpoint, [n for n in opened.checkpoint.other_files if n not in OWN_FILES])
        record = {
            "verb": "align",
            "steelyard": steelyard.__version__,
            "options": options.model_dump(mode="json"),
            "inputs": work[1],
            **{key: value for key, value in result.to_dict().items() if key != "out"},
            "orders": {space: found.tolist() for space, found in maps.items()},
        }
        writer.add_file(FILE_NAME, (json.dumps(record) + "\n").encode())
        writer.finish()
