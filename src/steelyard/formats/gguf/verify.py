"""The check of a written GGUF file by a reader of its own, which takes weights one bit field at a time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from steelyard.errors import VerificationError
from steelyard.formats.gguf.names import FAMILIES, gguf_name
from steelyard.formats.independent import Rows, float_rows
from steelyard.formats.verify import Check, error_of
from steelyard.progress import Progress
from steelyard.spec import ModelSpec
from steelyard.weights.layout import Layout

_TOLERANCE = 1e-6
_FLOATS: dict[int, Any] = {0: np.float32, 1: np.float16, 30: ml_dtypes.bfloat16}
# Weights and bytes of a block, from ggml's documentation.
_BLOCKS = {
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110), 12: (256, 144),
    13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_WHOLE = {2: "<H", 4: "<I", 5: "<i"}


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the bytes of a file."""

    data: np.memmap
    shape: tuple[int, ...]
    kind: int
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        numbers, each = _BLOCKS[self.kind] if self.kind in _BLOCKS else (1, np.dtype(_FLOATS[self.kind]).itemsize)
        return math.prod(self.shape) // numbers * each

    def slice(self, number: int) -> _Place:
        """Return one of the matrices that lie one after the other in the tensor."""
        one = replace(self, shape=self.shape[1:])
        return replace(one, begin=self.begin + number * one.nbytes)

    def array(self) -> np.ndarray:
        """Return the bytes of each row of blocks, or the numbers."""
        data = self.data[self.begin : self.begin + self.nbytes]
        if self.kind in _BLOCKS:
            return data.reshape(self.shape[0], -1)
        numbers: np.ndarray = data.view(_FLOATS[self.kind]).reshape(self.shape)
        return numbers


class _File:
    """Places of the tensors of a file, read once from front to back, and its keys that are single values."""

    def __init__(self, path: Path) -> None:
        self.data = np.memmap(path, np.uint8, "r")
        magic, version, tensors, keys = struct.unpack("<4sIQQ", self.data[:24].tobytes())
        if magic != b"GGUF" or version != 3:
            raise VerificationError(f"{path} is no GGUF file of version 3")
        self._at = 24
        self.keys: dict[str, str | int] = {}
        for _ in range(keys):
            key = self._text()
            self.keys[key] = self._value(self._number("<I"))
        found = {}
        for _ in range(tensors):
            name = self._text()
            sizes = [self._number("<Q") for _ in range(self._number("<I"))]
            found[name] = (tuple(sizes[::-1]), self._number("<I"), self._number("<Q"))
        start = -(-self._at // 32) * 32
        self.tensors = {
            name: _Place(self.data, shape, kind, start + at) for name, (shape, kind, at) in found.items()
        }
        self._require_no_holes(path, start)

    def _require_no_holes(self, path: Path, start: int) -> None:
        position = start
        for name, place in self.tensors.items():
            if place.begin != position:
                raise VerificationError(f"{path}: {name} lies at byte {place.begin}, not {position}")
            position += -(-place.nbytes // 32) * 32
        if position != len(self.data):
            raise VerificationError(f"{path} does not end with its last tensor")

    def _number(self, form: str) -> int:
        size = struct.calcsize(form)
        self._at += size
        (value,) = struct.unpack(form, self.data[self._at - size : self._at].tobytes())
        return int(value)

    def _text(self) -> str:
        length = self._number("<Q")
        self._at += length
        return self.data[self._at - length : self._at].tobytes().decode()

    def _value(self, kind: int) -> str | int:
        """Return a text or a whole number; 0 for what is neither, which is passed over."""
        if kind == 8:
            return self._text()
        if kind == 9:
            inner, count = self._number("<I"), self._number("<Q")
            if inner == 8:
                for _ in range(count):
                    self._text()
            else:
                self._at += count * _SIZES[inner]
            return 0
        if kind in _WHOLE:
            return self._number(_WHOLE[kind])
        self._at += _SIZES[kind]
        return 0


def _read(folder: Path, layout: Layout) -> tuple[str, dict[str, _Place]]:
    """Return what the planned files call the model, and the places of all their tensors.

    Raises:
        VerificationError: if there are other files, or a split does not say of itself what it is.
    """
    planned = layout.file_sizes
    found = {
        path.name: path.stat().st_size for path in folder.iterdir() if path.suffix in (".gguf", ".safetensors")
    }
    if found != planned:
        name = sorted(set(found.items()) ^ set(planned.items()))[0][0]
        raise VerificationError(
            f"{folder / name} has {found.get(name, 0):,} bytes; {planned.get(name, 0):,} were planned"
        )
    files = [_File(folder / file.name) for file in layout.files]
    places = {name: place for file in files for name, place in file.tensors.items()}
    if len(places) != sum(len(file.tensors) for file in files):
        raise VerificationError(f"{folder} has a tensor in more than one file")
    for number, file in enumerate(files):
        said = tuple(file.keys.get(f"split.{key}") for key in ("no", "count", "tensors.count"))
        right = (None, None, None) if len(files) == 1 else (number, len(files), len(places))
        if said != right:
            raise VerificationError(
                f"{folder / layout.files[number].name} says that it is {said} of a split, not {right}"
            )
    return str(files[0].keys.get("general.architecture")), places


def verify_gguf(
    folder: Path,
    layout: Layout,
    errors: Mapping[str, float],
    original: Callable[[str], np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    progress: Progress,
) -> list[Check]:
    """Check a written folder; see `formats.verify.verify_folder`.

    Raises:
        VerificationError: naming the file or tensor that is not as planned.
    """
    architecture, places = _read(folder, layout)
    config = json.loads((folder / "config.json").read_bytes())
    spec = ModelSpec.build(config, {name: (shape, "F32") for name, shape in expected.items()})
    family = FAMILIES[str(config["model_type"])]
    names = {name: str(gguf_name(spec, family, name)) for name in expected}
    wanted = set(names.values()) | _require_factors(places, spec, folder)
    if architecture != family.name or wanted != set(places):
        odd = sorted(wanted ^ set(places)) or [architecture]
        raise VerificationError(f"{folder / layout.files[0].name}: {odd[0]} is not as planned")
    progress.start("verifying", sum(math.prod(shape) for shape in expected.values()))
    worst = 0.0
    for name in expected:
        before = original(name)
        before = before.T if spec.tensors[name].transposed else before
        if spec.tensors[name].role == "router.shared":
            before = before[0]
        place = places[names[name]]
        if len(place.shape) == 3:
            place = place.slice(int(name.split(".experts.")[1].split(".")[0]))
        if place.shape != before.shape:
            raise VerificationError(
                f"{folder}: {names[name]} has shape {list(place.shape)}, not {list(before.shape)}"
            )
        stored = place.array()
        stored = _in_order(stored, spec, name, family.name)
        rows = float_rows(stored) if place.kind in _FLOATS else _rows(stored, place)
        error = error_of(before, rows)
        if not abs(error - errors[name]) <= _TOLERANCE * (1 + errors[name]):
            raise VerificationError(
                f"{folder}: {names[name]} misses {name} by {error:.6g}, {errors[name]:.6g} was recorded"
            )
        worst = max(worst, error)
        progress.advance(before.size)
    progress.finish()
    encoded = sum(place.kind in _BLOCKS for place in places.values())
    return [
        Check("bytes as planned", "pass", f"{layout.total_bytes:,} bytes in {len(layout.files)} file(s)"),
        Check("every tensor in its place", "pass", f"{encoded} tensors of blocks, no holes, no overlaps"),
        Check("no tensor missing or new", "pass", f"{len(expected)} tensors"),
        Check("decoded as recorded", "pass", f"largest relative error {worst:.4f}"),
    ]


def _require_factors(places: Mapping[str, _Place], spec: ModelSpec, folder: Path) -> set[str]:
    """Return the name of the divisors of rotary frequencies, if the model has them, once they are right."""
    scaling = dict(spec.config.get("rope_scaling") or {}) | dict(spec.config.get("rope_parameters") or {})
    name = "rope_freqs.weight"
    if "llama3" not in (scaling.get("rope_type"), scaling.get("type")) or name not in places:
        return {name} if "llama3" in (scaling.get("rope_type"), scaling.get("type")) else set()
    found = places[name].array()
    base = float(scaling.get("rope_theta") or spec.config.get("rope_theta") or 10000.0)
    context = float(scaling["original_max_position_embeddings"])
    low, high, factor = (float(scaling[f"{key}factor"]) for key in ("low_freq_", "high_freq_", ""))
    for i, divisor in enumerate(found):
        wave = 2 * math.pi * base ** (i / len(found))
        if wave < context / high:
            right = 1.0
        elif wave > context / low:
            right = factor
        else:
            part = (context / wave - low) / (high - low)
            right = factor / (1 - part + part * factor)
        if not math.isclose(divisor, right, rel_tol=1e-6):
            raise VerificationError(f"{folder}: {name} divides frequency {i} by {divisor}, not {right}")
    return {name}


def _rows(data: np.ndarray, place: _Place) -> Rows:
    from steelyard.formats.gguf import _second_reader

    def decode(start: int, stop: int) -> np.ndarray:
        decoded = np.empty((stop - start, place.shape[1]), np.float32)
        _second_reader.rows(np.ascontiguousarray(data[start:stop]), place.kind, _BLOCKS[place.kind][0], decoded)
        return decoded

    return decode


def _in_order(stored: np.ndarray, spec: ModelSpec, name: str, architecture: str) -> np.ndarray:
    """Return rows as Hugging Face has them: rotary halves apart, heads of a fused q, k and v together."""
    role = str(spec.tensors[name].role).removesuffix(".bias")
    config = spec.config
    heads = int(config.get("num_attention_heads") or 0)
    tail = stored.shape[1:]
    if architecture == "llama" and role in ("attn.q", "attn.k"):
        count = int(config.get("num_key_value_heads") or heads) if role == "attn.k" else heads
        turned = stored.reshape(count, -1, 2, *tail).swapaxes(1, 2)
    elif architecture == "gptneox" and role == "attn.qkv":
        turned = stored.reshape(3, heads, -1, *tail).swapaxes(0, 1)
    else:
        return stored
    return np.ascontiguousarray(turned).reshape(stored.shape)
