"""The independent check of a written folder: it is opened again, from the disk alone, before it takes its name.

A peer's output can load with an embedding table drawn at random, and nothing tells. Here every name that the
config declares must be stored, every encoded tensor must be declared exactly once under every name a loader may
give its module, every tensor of the model must be there in the planned shape, and every decoded tensor must miss
its original by exactly what was recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np

from steelyard.errors import VerificationError
from steelyard.formats.declared import Declared, read_declared
from steelyard.formats.independent import DiskFolder, PackedRows, Rows, float_rows, to_float32
from steelyard.parallel import map_threads
from steelyard.progress import SILENT, Progress
from steelyard.weights.layout import INDEX_FILE, Layout

# Two sums of squares in different orders differ in their last digits.
_TOLERANCE = 1e-6

# Elements that a thread works on at a time: few enough to stay in the cache, and for compiled loops, which make no
# copies, enough to be worth a thread's while.
_CHUNK = 1 << 18
_COMPILED_CHUNK = 1 << 21


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
    if layout.files[0].name.endswith(".gguf"):
        from steelyard.formats.gguf.verify import verify_gguf

        return verify_gguf(folder, layout, errors, original, expected, progress)
    sizes = _sizes(folder, layout)
    written = DiskFolder(folder)
    declared = read_declared(written, expected)
    return [
        sizes,
        _encoded(folder, declared, errors),
        _names(folder, declared, expected),
        _decoded(folder, written, declared, errors, original, expected, progress),
    ]


def _sizes(folder: Path, layout: Layout) -> Check:
    planned = layout.file_sizes
    if layout.index is not None:
        planned[INDEX_FILE] = len(layout.index)
    found = {path.name: path.stat().st_size for path in folder.glob("*.safetensors*")}
    for name, size in planned.items():
        if found.get(name) != size:
            raise VerificationError(f"{folder / name} has {found.get(name, 0):,} bytes, {size:,} were planned")
    extra = set(found) - set(planned)
    if extra:
        raise VerificationError(f"{folder} holds {sorted(extra)[0]}, which was not planned")
    return Check("bytes as planned", "pass", f"{layout.total_bytes:,} bytes in {len(planned)} file(s)")


def _encoded(folder: Path, declared: Declared, errors: Mapping[str, float]) -> Check:
    forgotten = sorted(set(declared.rows) - set(errors))
    if forgotten:
        raise VerificationError(f"{folder}: {forgotten[0]} is encoded, though the plan leaves it as it is")
    detail = f"{len(declared.rows)} encoded tensors, each declared once; {declared.targets} targets"
    return Check("every target is packed", "pass", detail)


def _names(folder: Path, declared: Declared, expected: Mapping[str, tuple[int, ...]]) -> Check:
    for name in sorted(set(declared.shapes) ^ set(expected)):
        raise VerificationError(f"{folder}: {name} is {'missing' if name in expected else 'not part of the model'}")
    for name, shape in expected.items():
        if declared.shapes[name] != shape:
            raise VerificationError(f"{folder}: {name} has shape {list(declared.shapes[name])}, not {list(shape)}")
    return Check("no tensor missing or new", "pass", f"{len(expected)} tensors")


def _decoded(
    folder: Path,
    written: DiskFolder,
    declared: Declared,
    errors: Mapping[str, float],
    original: Callable[[str], np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    progress: Progress,
) -> Check:
    progress.start("verifying", sum(math.prod(shape) for shape in expected.values()))
    worst = 0.0
    for name, shape in expected.items():
        before = original(name)
        if name in errors:
            decoded = declared.rows.get(name) or float_rows(written.array(name))
            error = error_of(before.T if name in declared.transposed else before, decoded)
            if not abs(error - errors[name]) <= _TOLERANCE * (1 + errors[name]):
                raise VerificationError(
                    f"{folder}: {name} misses its original by {error:.6g}, {errors[name]:.6g} was recorded"
                )
            worst = max(worst, error)
        elif not _same(before, written.array(name)):
            raise VerificationError(f"{folder}: {name} should be as it was, bit for bit, and is not")
        progress.advance(math.prod(shape))
    progress.finish()
    return Check("decoded as recorded", "pass", f"largest relative error {worst:.4f}")


def _same(before: np.ndarray, after: np.ndarray) -> bool:
    if before.dtype != after.dtype or before.shape != after.shape:
        return False
    flat, other = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (before, after))
    return all(np.array_equal(flat[i : i + _CHUNK], other[i : i + _CHUNK]) for i in range(0, len(flat), _CHUNK))


def relative_error(original: np.ndarray, decoded: np.ndarray) -> float:
    """Return |decoded - original| / |original| in the Frobenius norm; 0 for two zero tensors.

    Rows are summed in float32 and their sums in float64, by chunks, without a copy of either tensor.
    """
    return error_of(original, float_rows(decoded))


def error_of(original: np.ndarray, decoded: Rows) -> float:
    """Return `relative_error` of a tensor that is decoded by rows."""
    matrix = original.reshape(original.shape[0] if original.ndim else 1, -1)
    rows, columns = matrix.shape
    compiled = decoded if isinstance(decoded, PackedRows) and original.dtype == ml_dtypes.bfloat16 else None
    step = max(1, (_CHUNK if compiled is None else _COMPILED_CHUNK) // max(1, columns))

    def sums(start: int) -> tuple[float, float]:
        stop = min(start + step, rows)
        if compiled is not None:
            return compiled.squares(start, stop, matrix[start:stop])
        before = to_float32(matrix[start:stop])
        difference = decoded(start, stop)
        difference -= before
        return _squares(difference), _squares(before)

    pairs = map_threads(sums, range(0, rows, step))
    distance = math.fsum(pair[0] for pair in pairs)
    size = math.fsum(pair[1] for pair in pairs)
    return math.sqrt(distance / size) if size else float(distance > 0)


def _squares(array: np.ndarray) -> float:
    return float(np.vecdot(array, array).sum(dtype=np.float64))
