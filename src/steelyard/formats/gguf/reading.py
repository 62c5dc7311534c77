"""A GGUF file as the model's own tensors, by the names of Hugging Face."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.codecs.base import numpy_type
from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.types import LEVELS
from steelyard.errors import UserError
from steelyard.formats.gguf.header import SUFFIX, GgufHeader, GgufInfo, read_gguf
from steelyard.formats.gguf.metadata import FACTORS
from steelyard.formats.gguf.names import FAMILIES, SWITCH, expert_count, expert_of, gguf_name, hub_config, row_order
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint
from steelyard.weights.folder import WeightFiles
from steelyard.weights.header import TensorInfo
from steelyard.weights.stores import LocalStore
from steelyard.weights.strict_json import parse_strict

_PLAIN = ("F64", "F32", "F16", "BF16")
_CONFIG = "config.json"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_SAFETENSORS = ".safetensors"
_PLAIN_OF = {kind: kind for kind in _PLAIN}
# Files of a Hugging Face model that go with a GGUF file, whatever else its folder holds.
_BESIDE = (
    _CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt",
)  # fmt: skip


def gguf_file(location: str | Path) -> Path | None:
    """Return the GGUF file that a location names, or that is all the weights a folder has; of a split the first."""
    path = Path(location)
    try:
        if path.is_file():
            return path if path.suffix == SUFFIX else None
        files = (
            [entry for entry in path.iterdir() if entry.suffix in (SUFFIX, _SAFETENSORS)] if path.is_dir() else []
        )
    except OSError:
        return None
    whole = {(match[1], match[3]) if (match := _PART.fullmatch(entry.name)) else entry.name for entry in files}
    return min(files) if len(whole) == 1 and files[0].suffix == SUFFIX else None


def split_files(file: Path) -> list[Path]:
    """Return all files of a split, `NAME-00001-of-00003.gguf` and so on, from any of them; else the file itself.

    Raises:
        UserError: if one is not there.
    """
    match = _PART.fullmatch(file.name)
    if match is None:
        return [file]
    paths = [
        file.with_name(f"{match[1]}-{number:05d}-of-{match[3]}{SUFFIX}") for number in range(1, int(match[3]) + 1)
    ]
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(f"{missing[0]} is missing; {file.name} is one of {int(match[3])} that belong together")
    return paths


class GgufWeights:
    """The tensors of one GGUF file, or of one split, in the order of rows, and of axes, that Hugging Face has.

    Attributes:
        location: the file.
        files: names of all files of the split.
        places: in which file, and from which byte, each tensor lies, by the model's name.
        config: the folder's config.json, or what the keys of the file amount to.
        infos: where each tensor lies, by the model's name.
        lacks: why the config is not all there is to know of the model; "" if it is.
    """

    def __init__(self, file: Path) -> None:
        self.location = str(file)
        self.lacks = ""
        self._store = LocalStore(file.parent)
        try:
            self.files = tuple(path.name for path in split_files(file))
            self._headers: dict[str, GgufHeader] = {name: read_gguf(self._store, name) for name in self.files}
            metadata = self._headers[self.files[0]].metadata
            if metadata.get("split.count", 1) not in (0, len(self.files)):
                raise UserError(
                    f"{self.location} is one of {metadata['split.count']} files of a split; "
                    "they lie beside each other as NAME-00001-of-00003.gguf and so on"
                )
            self.places: dict[str, tuple[str, int]] = {}
            shapes = {name: info.shape for h in self._headers.values() for name, info in h.tensors.items()}
            if self._store.has(_CONFIG):
                size = self._store.size(_CONFIG)
                self.config = dict(
                    parse_strict(bytes(self._store.read(_CONFIG, 0, size)), str(file.parent / _CONFIG))
                )
            else:
                self.config = hub_config(metadata, shapes)
                if FACTORS in shapes:
                    self.lacks = (
                        f"{self.location} divides rotary frequencies by a table and does not say why; "
                        "put the model's config.json beside it"
                    )
            self._spec = _spec(self.config, self.location)
            self.infos = self._named()
        except BaseException:
            self._store.close()
            raise

    def _named(self) -> dict[str, GgufInfo]:
        family = FAMILIES[str(self.config["model_type"])]
        found, known = {}, {FACTORS}
        stored = {name: file for file, header in self._headers.items() for name in header.tensors}
        for name, tensor in self._spec.tensors.items():
            theirs = gguf_name(self._spec, family, name) if tensor.role is not None else None
            if theirs is not None and theirs in stored:
                known.add(theirs)
                header = self._headers[stored[theirs]]
                info = found[name] = self._part(header.tensors[theirs], name)
                self.places[name] = stored[theirs], header.nbytes + info.offset
                if info.shape != _sizes(self._spec, name):
                    raise UserError(
                        f"{self.location}: {theirs} has shape {list(info.shape)}, and the config asks for "
                        f"{list(_sizes(self._spec, name))}"
                    )
                if info.kind.name not in (*_PLAIN, *LEVELS):
                    raise UserError(f"{self.location}: {theirs} is {info.kind.name}, which cannot be decoded yet")
        if strange := [name for name in stored if name not in known]:
            raise UserError(f"{self.location}: {strange[0]} is no tensor of a {self.config['model_type']}")
        return found

    def _part(self, info: GgufInfo, name: str) -> GgufInfo:
        """Return where a model's tensor lies: the whole of the file's tensor, or one expert's slice of it."""
        expert = expert_of(self._spec, name)
        if expert is None:
            return info
        count = expert_count(self._spec)
        if len(info.shape) != 3 or info.shape[0] != count:
            raise UserError(f"{self.location}: {info.name} has shape {list(info.shape)}, not {count} experts")
        return replace(info, shape=info.shape[1:], offset=info.offset + expert * (info.nbytes // count))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape in the model."""
        return self._spec.tensors[name].shape

    def codec(self, name: str) -> GgufCodec | None:
        """Return the type of a tensor's blocks; None for plain numbers."""
        kind = self.infos[name].kind.name
        return None if kind in _PLAIN else GgufCodec(kind)

    def parts(self, name: str) -> dict[str, np.ndarray]:
        """Return the blocks, or the plain numbers, with rows in the model's order; matrices are [out, in]."""
        info = self.infos[name]
        file, begin = self.places[name]
        data = np.frombuffer(self._store.read(file, begin, begin + info.nbytes), np.uint8)
        order = row_order(self._spec, FAMILIES[str(self.config["model_type"])], name)
        codec = self.codec(name)
        if codec is not None:
            part, stored = "blocks", data.reshape(codec.parts(info.shape)["blocks"][1])
        else:
            part, stored = "weight", _typed(data, info)
        if order is not None:
            undone = np.empty_like(stored)
            undone[order] = stored
            stored = undone
        return {part: stored}

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in the model's shape: float32 where it was encoded, else as it is stored."""
        codec, parts = self.codec(name), self.parts(name)
        array = parts["weight"] if codec is None else codec.decode(parts, self.infos[name].shape)
        if self._spec.tensors[name].transposed:
            return np.ascontiguousarray(array.T)
        return array.reshape(self.shape(name))

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()


class GgufCheckpoint(Checkpoint):
    """A GGUF file and the files beside it as other checkpoints are seen. Tensors are the model's, decoded.

    A file that is named by itself is one of possibly many in its folder: of the others, those that belong to a
    Hugging Face model are taken. A folder's only weights take all of it.
    """

    def __init__(self, location: str | Path, file: Path, weights: GgufWeights) -> None:
        self._location, self._weights_of = str(location), weights
        self._store = LocalStore(file.parent)
        self._single = file.name if Path(location).is_file() else None
        infos = {
            name: TensorInfo(
                name,
                _PLAIN_OF.get(info.kind.name, "U8"),
                weights.shape(name),
                weights.places[name][0],
                0,
                info.nbytes,
            )
            for name, info in weights.infos.items()
        }
        self._weights = WeightFiles(weights.files, None, infos)
        self._config = dict(weights.config)
        self._others: tuple[list[str], list[str]] | None = None
        self._closed = False

    def tensor(self, name: str) -> np.ndarray[Any, Any]:
        """Return a tensor: float32 where it was encoded, else as it is stored."""
        self.info(name)
        return self._weights_of.tensor(name)

    def advise_done(self, name: str) -> None:
        """Nothing is mapped for long."""

    def _split(self) -> tuple[list[str], list[str]]:
        if self._others is None and self._single is not None:
            self._others = ([name for name in _BESIDE if self._store.has(name)], [])
        return super()._split()


def _spec(config: Mapping[str, Any], where: str) -> ModelSpec:
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        hint = "; with experts they can where the model's config.json lies beside" if kind.endswith("moe") else ""
        raise UserError(
            f"{where} is of a kind ({kind}) whose weights cannot be read; {', '.join(FAMILIES)} can{hint}"
        )
    return ModelSpec.from_config(config)


def _sizes(spec: ModelSpec, name: str) -> tuple[int, ...]:
    tensor = spec.tensors[name]
    if tensor.role == SWITCH:
        return tensor.shape[1:]
    return tensor.matrix_shape if len(tensor.shape) == 2 else tensor.shape


def _typed(data: np.ndarray, info: GgufInfo) -> np.ndarray:
    if data.ctypes.data % max(1, info.nbytes // max(1, math.prod(info.shape))):
        data = data.copy()
    return data.view(numpy_type(info.kind.name)).reshape(info.shape)
