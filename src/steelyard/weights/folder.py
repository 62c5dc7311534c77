"""Which files of a model folder hold its weights, which belong to the model, and which do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from steelyard.errors import UserError
from steelyard.weights.header import Header, TensorInfo, read_header, shown
from steelyard.weights.layout import INDEX_FILE, SINGLE_FILE
from steelyard.weights.names import natural_key
from steelyard.weights.stores import Store
from steelyard.weights.strict_json import parse_strict

# Weights of other frameworks and formats: they hold the model as it was, so carrying them along would ship
# it twice. Pickles are never opened: reading one can run code.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OTHER_WEIGHTS = (
    *_PICKLES,
    ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".onnx_data", ".onnx.data", ".ot", ".tflite",
    ".mlmodel", ".mlpackage", ".npz", ".npy",
)  # fmt: skip
_OTHER_WEIGHT_FOLDERS = ("onnx", "openvino", "coreml", "original")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files of a model, in order, and the index that names them (None for a single file)."""

    files: tuple[str, ...]
    index: str | None
    tensors: Mapping[str, TensorInfo]


def read_weight_files(store: Store, single: str | None = None) -> WeightFiles:
    """Find the weight files of a folder, read their headers and check them against the index.

    Args:
        store: the folder.
        single: the one file to read, whatever else the folder holds.

    Raises:
        UserError: for anything missing, damaged or contradictory, naming file and tensor.
    """
    if single is None and store.has(SINGLE_FILE):
        single = SINGLE_FILE  # as transformers chooses when both are there
    if single is None and store.has(INDEX_FILE):
        return _read_shards(store)
    header = _header(store, single or _only_file(store))
    return WeightFiles((header.file,), None, _in_order(header.tensors))


def split_others(files: list[str], weights: WeightFiles) -> tuple[list[str], list[str]]:
    """Split the files that are not the weights into those to carry along and those to leave behind.

    Left behind are the same weights in other formats. A .safetensors file in a subfolder is a part of its
    own (a pooling or projection head), so it is carried.
    """
    carried: list[str] = []
    left: list[str] = []
    for file in files:
        if file in weights.files or file == weights.index:
            continue
        path = PurePosixPath(file)
        foreign = (
            file.lower().endswith(_OTHER_WEIGHTS)
            or path.parts[0] in _OTHER_WEIGHT_FOLDERS
            or (
                len(path.parts) == 1
                and file.endswith((".safetensors", ".safetensors.index.json", ".bin.index.json"))
            )
        )
        (left if foreign else carried).append(file)
    return carried, left


def _read_shards(store: Store) -> WeightFiles:
    where = f"{store.location}/{INDEX_FILE}"
    weight_map = _weight_map(store, where)
    files = tuple(sorted(set(weight_map.values()), key=natural_key))
    missing = [file for file in files if not store.has(file)]
    if missing:
        raise UserError(
            f"{store.location}: missing shard {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f", which {INDEX_FILE} names; download it again"
        )
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        header = _header(store, file)
        named = {name for name, holder in weight_map.items() if holder == file}
        absent = sorted(named - header.tensors.keys(), key=natural_key)
        if absent:
            raise UserError(
                f"{where} places tensor {shown(absent[0])} in {file}, which does not hold it; download both again"
            )
        extra = sorted(header.tensors.keys() - named, key=natural_key)
        if extra:
            raise UserError(
                f"{store.location}/{file} holds tensor {shown(extra[0])}, which {INDEX_FILE} does not place "
                "there; download both again"
            )
        tensors.update(header.tensors)
    return WeightFiles(files, INDEX_FILE, _in_order(tensors))


def _weight_map(store: Store, where: str) -> dict[str, str]:
    text = bytes(store.read(INDEX_FILE, 0, store.size(INDEX_FILE)))
    weight_map = parse_strict(text, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{where} has no weight_map from tensors to files; download it again")
    for name, file in weight_map.items():
        safe = isinstance(file, str) and file.endswith(".safetensors")
        if not safe or "\\" in file or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise UserError(
                f"{where} places tensor {shown(name)} in {str(file)[:200]!r}, which is not a .safetensors file "
                "of this folder; download it again"
            )
    return weight_map


def _header(store: Store, file: str) -> Header:
    def read(begin: int, end: int) -> bytes:
        return bytes(store.read(file, begin, end))

    return read_header(read, store.size(file), file, f"{store.location}/{file}")


def _only_file(store: Store) -> str:
    top = store.top()
    found = [file for file in top if file.endswith(".safetensors")]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{store.location} holds {len(found)} .safetensors files but no {INDEX_FILE}; "
            "download the index, or give one of the files"
        )
    pickled = [file for file in top if file.lower().endswith(_PICKLES)]
    if pickled:
        raise UserError(
            f"{store.location} holds only pickled weights ({pickled[0]}), which can run code when they are read; "
            "save the model as safetensors first (save_pretrained of transformers does)"
        )
    raise UserError(f"{store.location} holds no .safetensors file; give the folder of a model")


def _in_order(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    return {name: tensors[name] for name in sorted(tensors, key=natural_key)}
