"""What is weighed: a folder, a GGUF file or a config alone, opened and brought to one form."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.formats.gguf.header import SUFFIX, GgufInfo, read_gguf
from steelyard.formats.gguf.names import hub_config, hub_name
from steelyard.spec import ModelSpec
from steelyard.weigh.holding import Holding
from steelyard.weigh.native import read_native
from steelyard.weigh.packed import is_loose_scale, plain, read_packed
from steelyard.weigh.same import same_values
from steelyard.weigh.sanity import check_heads
from steelyard.weights import Checkpoint
from steelyard.weights.checkpoint import CONFIG_FILE
from steelyard.weights.locate import locate
from steelyard.weights.stores import LocalStore, Store
from steelyard.weights.strict_json import parse_strict

_NATIVE = "steelyard"
_PLAIN = ("F64", "F32", "F16", "BF16")
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


@dataclass(frozen=True)
class Subject:
    """A model to weigh.

    Attributes:
        location: as it was given.
        source: "weights", "gguf" or "config".
        spec: what the model is, its tensors in the types they are read as.
        holdings: what stands for every tensor of the model, by its name; aliases that are stored twice included.
        loose: bytes of stored tensors that belong to none of the model, such as scales of a key-value cache.
        files: number of weight files.
        file_bytes: bytes on disk of the weight files and their index; None without weights.
        quantization: how the config or the file calls it; "" for plain numbers.
        notes: beside those of the spec.
    """

    location: str
    source: str
    spec: ModelSpec
    holdings: Mapping[str, Holding]
    loose: Mapping[str, int]
    files: int
    file_bytes: int | None
    quantization: str
    notes: tuple[str, ...] = ()


def open_subject(location: str | Path | Mapping[str, Any] | ModelSpec, dtype: str | None = None) -> Subject:
    """Read headers and config of what is to be weighed.

    Args:
        location: a folder, a .safetensors, .gguf or config .json file, an fsspec URL, an id in the local Hugging
            Face cache, a config, or a spec.
        dtype: element type that a model without weights is weighed in, such as "BF16".

    Raises:
        UserError: for anything missing, damaged or contradictory.
    """
    if isinstance(location, ModelSpec):
        return _from_spec(location, "")
    if isinstance(location, Mapping):
        return _from_spec(_spec_of(location, dtype), "")
    text = os.fspath(location)
    if text.endswith(SUFFIX):
        store, file = _file_of(text)
        return _from_gguf(text, store, [file])
    if text.endswith(".json"):
        store, file = _file_of(text)
        return _from_spec(_spec_of(_config(store, file), dtype), text)
    store, single = locate(text)
    try:
        if single is None:
            top = store.top()
            if not any(file.endswith((".safetensors", ".safetensors.index.json")) for file in top):
                return _without_safetensors(text, store, top, dtype)
        if dtype is not None:
            raise UserError(f"{text} holds weights in types of their own; a dtype is for configs without weights")
        with Checkpoint(text, store, single) as checkpoint:
            return _from_checkpoint(text, checkpoint)
    finally:
        store.close()


def _without_safetensors(text: str, store: Store, top: Sequence[str], dtype: str | None) -> Subject:
    files = [file for file in top if file.endswith(SUFFIX)]
    if files:
        parts = [file for file in files if "-of-" in file]
        if len(files) > 1 and parts != files:
            raise UserError(f"{text} holds {len(files)} GGUF files; give one of them, such as {text}/{files[0]}")
        return _from_gguf(text, store, files)
    if CONFIG_FILE not in top:
        raise UserError(f"{text} holds neither weights (.safetensors, .gguf) nor a config.json")
    found = _from_spec(_spec_of(_config(store, CONFIG_FILE), dtype), text)
    other = next((file for file in top if file.endswith((".bin", ".pt", ".pth", ".h5", ".msgpack"))), None)
    note = f"{other} is not opened: the sizes are those of the config"
    return replace(found, notes=(*found.notes, note)) if other else found


def _file_of(text: str) -> tuple[Store, str]:
    if "://" in text and not text.startswith(("file://", "local://")):
        from steelyard.weights.remote import RemoteStore

        folder, _, name = text.rpartition("/")
        return RemoteStore(folder), name
    path = Path(os.path.expanduser(text.split("://", 1)[-1]))
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist; give a model folder or a file")
    return LocalStore(path.parent), path.name


def _config(store: Store, file: str) -> dict[str, Any]:
    where = f"{store.location}/{file}"
    size = store.size(file)
    if size > 1 << 24:
        raise UserError(f"{where} has {size:,} bytes, far too many for a config; download it again")
    return parse_strict(bytes(store.read(file, 0, size)), where)


def _spec_of(config: Mapping[str, Any], dtype: str | None) -> ModelSpec:
    spec = ModelSpec.from_config(config, dtype)
    if spec.architecture is not None:
        check_heads(spec.architecture, spec.architecture.settings(config))
    return spec


def _from_spec(spec: ModelSpec, location: str) -> Subject:
    holdings = {name: plain(name, tensor.shape, tensor.dtype) for name, tensor in spec.tensors.items()}
    notes = ["weighed from the config alone: bytes are those of the plain numbers"]
    if spec.config.get("quantization_config"):
        notes.append("the config declares a quantization, whose bytes only the weights can tell")
    return Subject(location, "config", spec, holdings, {}, 0, None, "", tuple(notes))


def _from_gguf(text: str, store: Store, files: Sequence[str]) -> Subject:
    headers = [read_gguf(store, file) for file in files]
    found = {name: _held(info) for header in headers for name, info in header.tensors.items()}
    if not found:
        raise UserError(f"{text} holds no tensors")
    config = hub_config(headers[0].metadata, {name: holding.shape for name, holding in found.items()})
    holdings = {}
    for name, holding in found.items():
        hub = hub_name(name) if "architectures" in config else name
        holdings[hub] = replace(holding, name=hub)
    shapes = {name: (holding.shape, "F32") for name, holding in holdings.items()}
    kinds = {holding.encoding for holding in found.values() if not holding.plain}
    notes: tuple[str, ...] = ()
    try:
        spec = ModelSpec.build(config, shapes)
    except UserError as error:
        # GGUF files are often made by other programs with keys of their own; names and sizes still hold.
        notes = (f"the keys of the file do not describe its tensors ({error}); weighed by names and shapes",)
        spec = ModelSpec.build({"model_type": f"gguf:{config.get('model_type', '')}"}, shapes)
    size = sum(store.size(file) for file in files)
    return Subject(
        text,
        "gguf",
        spec,
        holdings,
        {},
        len(files),
        size,
        "GGUF " + ", ".join(sorted(kinds)) if kinds else "",
        notes,
    )


def _held(info: GgufInfo) -> Holding:
    kind = info.kind
    blocks = math.prod(info.shape) // kind.numbers
    sizes = (kind.codes * blocks, kind.scales * blocks, kind.minima * blocks)
    return Holding(info.name, info.shape, kind.name, (info.name,), *sizes, plain=kind.name in _PLAIN)


def _from_checkpoint(text: str, checkpoint: Checkpoint) -> Subject:
    shapes, config = checkpoint.shapes(), checkpoint.config
    if not shapes:
        raise UserError(f"{text} holds no tensors")
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, Mapping):
        raise UserError(f"{text}/config.json: quantization_config is not an object; download it again")
    method = str(quantization.get("quant_method") or "")
    if method == _NATIVE:
        holdings = read_native(shapes, quantization, f"{text}/config.json")
    else:
        holdings = read_packed(shapes, checkpoint.tensor, config)
    packed = any(
        holding.encoding not in ("BOOL", "I64", "U8") for holding in holdings.values() if not holding.plain
    )
    loose = {name: holding.nbytes for name, holding in holdings.items() if is_loose_scale(name) and packed}
    holdings = {name: holding for name, holding in holdings.items() if name not in loose}
    spec, notes = _build(config, holdings, checkpoint, bool(method) or packed)
    if spec.architecture is not None:
        check_heads(spec.architecture, spec.architecture.settings(config))
    return Subject(
        text,
        "weights",
        spec,
        holdings,
        loose,
        len(checkpoint.weight_files),
        checkpoint.weight_bytes,
        method or _layout(holdings),
        notes,
    )


def _build(
    config: Mapping[str, Any], holdings: Mapping[str, Holding], checkpoint: Checkpoint, quantized: bool
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec of the model that the holdings stand for."""
    element = _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."), "BF16")

    def dtype(holding: Holding) -> str:
        stored = checkpoint.info(holding.stored[0]).dtype
        return stored if len(holding.stored) == 1 and (holding.plain or stored == holding.encoding) else element

    shapes = {name: (holding.shape, dtype(holding)) for name, holding in holdings.items()}
    notes: list[str] = []
    try:
        spec = ModelSpec.build(config, shapes)
    except UserError as error:
        if not quantized:
            raise
        # A layout nobody described: its packed shapes are not the model's.
        notes.append(f"the quantized layout is not known ({error}); weighed by stored names and shapes")
        found = ModelSpec.build({}, shapes)
        return replace(found, model_type=str(config.get("model_type") or ""), config=config), tuple(notes)
    untied = []
    for alias in spec.stored_aliases:
        equal, whole = same_values(checkpoint, holdings[alias], holdings[spec.ties[alias]])
        if not equal:
            untied.append(alias)
        elif not whole:
            notes.append(f"{alias} and {spec.ties[alias]} are both stored and equal in samples, not compared whole")
    if untied:
        spec = ModelSpec.build(config, shapes, untied)
    return spec, tuple(notes)


def _layout(holdings: Mapping[str, Holding]) -> str:
    """What is packed although no config says so."""
    kinds = {holding.encoding for holding in holdings.values() if len(holding.stored) > 1}
    return ", ".join(sorted(kinds)[:3])
