"""The independent reader: a written folder is opened again, from the disk alone, before it takes its name.

A peer's output can load with an embedding table drawn at random, and nothing tells. Here every name that the
config declares must be stored, every encoded tensor must be declared exactly once, every tensor of the model must
be there in the planned shape, and every decoded tensor must miss its original by exactly what was recorded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steelyard.errors import VerificationError
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.progress import SILENT, Progress
from steelyard.weights.layout import INDEX_FILE, Layout

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Check:
    """One thing that was proved."""

    name: str
    status: Literal["pass"]
    detail: str

    def to_dict(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)


def verify_folder(
    folder: Path,
    layout: Layout,
    errors: Mapping[str, float],
    original: Callable[[str], np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    progress: Progress = SILENT,
) -> list[Check]:
    """Check a written folder.

    Args:
        folder: the folder, staged or final.
        layout: the planned files.
        errors: recorded relative error of each encoded tensor.
        original: returns the original of a tensor of the result, in the shape it has there.
        expected: shape of every tensor of the result.
        progress: advanced by elements.

    Raises:
        VerificationError: naming the file or tensor that is not as planned.
    """
    checks = [_sizes(folder, layout)]
    with LogicalCheckpoint.open(folder) as written:
        checks.append(_declared(folder, written, errors))
        checks.append(_names(folder, written, expected))
        checks.append(_decoded(folder, written, errors, original, expected, progress))
    return checks


def _sizes(folder: Path, layout: Layout) -> Check:
    planned = {file.name: file.size for file in layout.files}
    if layout.index is not None:
        planned[INDEX_FILE] = len(layout.index)
    for name, size in planned.items():
        found = (folder / name).stat().st_size
        if found != size:
            raise VerificationError(f"{folder / name} has {found:,} bytes, {size:,} were planned")
    extra = {path.name for path in folder.glob("*.safetensors*")} - set(planned)
    if extra:
        raise VerificationError(f"{folder} holds {sorted(extra)[0]}, which was not planned")
    return Check("bytes as planned", "pass", f"{layout.total_bytes:,} bytes in {len(planned)} file(s)")


def _declared(folder: Path, written: LogicalCheckpoint, errors: Mapping[str, float]) -> Check:
    """Every declared target is an encoded tensor and the other way round, each exactly once."""
    config = json.loads((folder / "config.json").read_bytes())
    quantization: Mapping[str, Any] = config.get("quantization_config") or {}
    if quantization.get("quant_method") == "compressed-tensors":
        targets = Counter(t for group in quantization["config_groups"].values() for t in group["targets"])
        twice = [target for target, count in targets.items() if count > 1]
        if twice:
            raise VerificationError(f"{folder / 'config.json'}: {twice[0]} is the target of two groups")
        declared = {f"{target}.weight" for target in targets}
    else:
        declared = set(quantization.get("tensors", {}))
    encoded = set(written.entries)
    for name in sorted(declared ^ encoded):
        problem = "is declared but not encoded" if name in declared else "is encoded but not declared"
        raise VerificationError(f"{folder}: {name} {problem}; it would load as random numbers")
    forgotten = sorted(encoded - set(errors))
    if forgotten:
        raise VerificationError(f"{folder}: {forgotten[0]} is encoded, though the plan leaves it as it is")
    return Check("every target is packed", "pass", f"{len(encoded)} encoded tensors, each declared once")


def _names(folder: Path, written: LogicalCheckpoint, expected: Mapping[str, tuple[int, ...]]) -> Check:
    names = set(written.names)
    for name in sorted(names ^ set(expected)):
        raise VerificationError(f"{folder}: {name} is {'missing' if name in expected else 'not part of the model'}")
    return Check("no tensor missing or new", "pass", f"{len(names)} tensors")


def _decoded(
    folder: Path,
    written: LogicalCheckpoint,
    errors: Mapping[str, float],
    original: Callable[[str], np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    progress: Progress,
) -> Check:
    progress.start("verifying", sum(int(np.prod(shape)) for shape in expected.values()))
    worst = 0.0
    for name, shape in expected.items():
        decoded = written.tensor(name)
        if decoded.shape != shape:
            raise VerificationError(f"{folder}: {name} has shape {list(decoded.shape)}, not {list(shape)}")
        before = original(name)
        if name not in errors:
            if before.dtype != decoded.dtype or not np.array_equal(before.view(np.uint8), decoded.view(np.uint8)):
                raise VerificationError(f"{folder}: {name} should be as it was, bit for bit, and is not")
        else:
            error = relative_error(before, decoded)
            if not abs(error - errors[name]) <= _TOLERANCE * (1 + errors[name]):
                raise VerificationError(
                    f"{folder}: {name} misses its original by {error:.6g}, {errors[name]:.6g} was recorded"
                )
            worst = max(worst, error)
        progress.advance(int(np.prod(shape)))
    progress.finish()
    return Check("decoded as recorded", "pass", f"largest relative error {worst:.4f}")


def relative_error(original: np.ndarray, decoded: np.ndarray) -> float:
    """Return |decoded - original| / |original| in the Frobenius norm; 0 for two zero tensors."""
    reference = original.astype(np.float32)
    size = float(np.linalg.norm(reference))
    distance = float(np.linalg.norm(reference - decoded.astype(np.float32)))
    return distance / size if size else float(distance > 0)
