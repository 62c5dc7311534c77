"""A GGUF file as the model's own tensors, by the names of Hugging Face."""

from __future__ import annotations

import math
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
_SAFETENSORS = ".safetensors"
_PLAIN_OF = {kind: kind for kind in _PLAIN}
# Files of a Hugging Face model that go with a GGUF file, whatever else its folder holds.
_BESIDE = (
    _CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt",
)  # fmt: skip


def gguf_file(location: str | Path) -> Path | None:
    """Return the GGUF file that a location names, or that is all the weights a folder has."""
    path = Path(location)
    try:
        if path.is_file():
            return path if path.suffix == SUFFIX else None
        files = (
            [entry for entry in path.iterdir() if entry.suffix in (SUFFIX, _SAFETENSORS)] if path.is_dir() else []
        )
    except OSError:
        return None
    return files[0] if len(files) == 1 and files[0].suffix == SUFFIX else None


class GgufWeights:
    """The tensors of one GGUF file in the order of rows, and of axes, that Hugging Face has.

    Attributes:
        location: the file.
        config: the folder's config.json, or what the keys of the file amount to.
        infos: where each tensor lies, by the model's name.
        lacks: why the config is not all there is to know of the model; "" if it is.
    """

    def __init__(self, file: Path) -> None:
        self.location = str(file)
        self._file, self.lacks = file.name, ""
        self._store = LocalStore(file.parent)
        try:
            self._header: GgufHeader = read_gguf(self._store, self._file)
            shapes = {name: info.shape for name, info in self._header.tensors.items()}
            if self._store.has(_CONFIG):
                size = self._store.size(_CONFIG)
                self.config = dict(
                    parse_strict(bytes(self._store.read(_CONFIG, 0, size)), str(file.parent / _CONFIG))
                )
            else:
                self.config = hub_config(self._header.metadata, shapes)
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
        found, stored, known = {}, self._header.tensors, {FACTORS}
        for name, tensor in self._spec.tensors.items():
            theirs = gguf_name(self._spec, family, name) if tensor.role is not None else None
            if theirs is not None and theirs in stored:
                known.add(theirs)
                info = found[name] = self._part(stored[theirs], name)
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
        begin = self._header.nbytes + info.offset
        data = np.frombuffer(self._store.read(self._file, begin, begin + info.nbytes), np.uint8)
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
                name, _PLAIN_OF.get(info.kind.name, "U8"), weights.shape(name), file.name, 0, info.nbytes
            )
            for name, info in weights.infos.items()
        }
        self._weights = WeightFiles((file.name,), None, infos)
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
