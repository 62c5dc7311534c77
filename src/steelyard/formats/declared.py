"""What a written folder's config says of its tensors, held against what its files hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard import codecs
from steelyard.codecs import Codec, DenseCodec, Float8Codec, IntegerCodec, MicroscalingCodec, Nvfp4Codec
from steelyard.errors import UserError, VerificationError
from steelyard.formats.independent import DiskFolder, Rows, blob_rows, decoded_rows
from steelyard.formats.targets import matching, spellings
from steelyard.spec import ModelSpec
from steelyard.spec.tensor import module_of

_CLASSES = {"linear": "Linear", "embedding": "Embedding"}
_LAYOUTS = {
    "pack-quantized": "weight_packed",
    "int-quantized": "weight",
    "float-quantized": "weight",
    "nvfp4-pack-quantized": "weight_packed",
    "mxfp4-pack-quantized": "weight_packed",
    "mxfp8-quantized": "weight",
}
_EXACT = {"float32": ("F32", "F16", "BF16"), "float16": ("F16",), "bfloat16": ("BF16",)}


@dataclass(frozen=True)
class Declared:
    """The logical tensors of a folder.

    Attributes:
        shapes: of each, by the names the plan has for them.
        rows: how to decode the matrix of each encoded one.
        transposed: those of them that the model has as [in, out].
        targets: how many targets the config has.
    """

    shapes: Mapping[str, tuple[int, ...]]
    rows: Mapping[str, Rows]
    transposed: frozenset[str]
    targets: int


def read_declared(written: DiskFolder, expected: Mapping[str, tuple[int, ...]]) -> Declared:
    """Return the tensors a folder holds, each encoded one declared exactly once.

    Args:
        written: the folder.
        expected: shape of every tensor that was planned.

    Raises:
        VerificationError: naming the tensor that would load as something else.
    """
    config = written.config
    where = written.folder / "config.json"
    try:
        spec = ModelSpec.build(config, {name: (shape, "F32") for name, shape in expected.items()})
    except UserError as error:
        raise VerificationError(f"{where}: {error}") from None
    if spec.stored_aliases:
        raise VerificationError(f"{where} ties {spec.stored_aliases[0]}, which has a copy of its own")
    quantization = config.get("quantization_config")
    if quantization is None:
        return Declared({name: stored.shape for name, stored in written.tensors.items()}, {}, frozenset(), 0)
    if quantization["quant_method"] == "compressed-tensors":
        return _compressed(written, spec, quantization)
    return _native(written, quantization)


def _native(written: DiskFolder, quantization: Mapping[str, Any]) -> Declared:
    shapes = {name: stored.shape for name, stored in written.tensors.items()}
    rows: dict[str, Rows] = {}
    transposed = set()
    entries = quantization["tensors"]
    blobs = {name for name, stored in written.tensors.items() if stored.dtype == "U8"}
    for name in sorted(set(entries) ^ blobs):
        problem = (
            "is declared but no row of bytes" if name in entries else "is a row of bytes that nothing declares"
        )
        raise VerificationError(f"{written.folder}: {name} {problem}; it would not load")
    for name, entry in entries.items():
        shape = (entry["shape"][0], entry["shape"][1])
        rows[name] = blob_rows(written.bytes(name), codecs.from_dict(entry["codec"]), shape)
        shapes[name] = shape[::-1] if entry.get("transposed") else shape
        if entry.get("transposed"):
            transposed.add(name)
    return Declared(shapes, rows, frozenset(transposed), len(entries))


def _compressed(written: DiskFolder, spec: ModelSpec, quantization: Mapping[str, Any]) -> Declared:
    folder = written.folder
    groups: dict[str, Mapping[str, Any]] = {}
    for group in quantization["config_groups"].values():
        for target in group["targets"]:
            if target in groups:
                raise VerificationError(f"{folder / 'config.json'}: {target} is the target of two groups")
            groups[target] = group
    # Old spellings are written as today's module names, so the plan's names are looked up by theirs.
    renamed = {} if spec.architecture is None else {spec.architecture.rename(name): name for name in spec.tensors}
    encoded = {name.rpartition(".")[0] for name in written.tensors if name.endswith(".weight_scale")}
    used: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    rows: dict[str, Rows] = {}
    spent: set[str] = set()
    for module in sorted(encoded):
        target = _only_target(written, spec, groups, module)
        used[target] += 1
        name = renamed.get(f"{module}.weight", f"{module}.weight")
        shapes[name], rows[name], parts = _decoder(written, module, groups[target])
        spent |= parts
        if any(matching(quantization["ignore"], spelling) for spelling in spellings(spec, module)):
            raise VerificationError(f"{folder / 'config.json'} ignores {module}, which is encoded")
    for target in groups:
        if not used[target]:
            raise VerificationError(f"{folder / 'config.json'}: the target {target} matches no encoded tensor")
    for name, tensor in spec.tensors.items():
        module = module_of(name if spec.architecture is None else spec.architecture.rename(name))
        for spelling in () if module in encoded else spellings(spec, module):
            if matched := matching(groups, spelling, _CLASSES.get(tensor.kind, "")):
                raise VerificationError(
                    f"{folder}: {name} is declared by {matched[0]} but not encoded; it would load as random numbers"
                )
    shapes |= {name: stored.shape for name, stored in written.tensors.items() if name not in spent}
    return Declared(shapes, rows, frozenset(), len(groups))


def _only_target(written: DiskFolder, spec: ModelSpec, groups: Mapping[str, Any], module: str) -> str:
    """Return the one target that matches a module, under every name it may have."""
    found: set[str] = set()
    for spelling in spellings(spec, module):
        matched = matching(groups, spelling, "Linear")
        if len(matched) != 1:
            raise VerificationError(
                f"{written.folder}: {module} is encoded, and {len(matched)} targets match it as {spelling}; it "
                f"would load as {'random numbers' if not matched else 'whichever comes first'}"
            )
        found.update(matched)
    if len(found) != 1:
        raise VerificationError(f"{written.folder}: {module} is matched by {' and '.join(sorted(found))}")
    return found.pop()


def _decoder(written: DiskFolder, module: str, group: Mapping[str, Any]) -> tuple[tuple[int, int], Rows, set[str]]:
    """Return the shape and the decoded rows of a module's weight, and the stored tensors it takes."""
    arguments, layout = group["weights"], group["format"]
    first, tensors = f"{module}.{_LAYOUTS[layout]}", written.tensors
    needed = {first, f"{module}.weight_scale"}
    needed |= {f"{module}.weight_shape"} if layout == "pack-quantized" else set()
    needed |= {f"{module}.weight_global_scale"} if layout == "nvfp4-pack-quantized" else set()
    needed |= set() if arguments["symmetric"] else {f"{module}.weight_zero_point"}
    owned = {name for name in tensors if name.rpartition(".")[0] == module and not name.endswith(".bias")}
    if owned != needed:
        raise VerificationError(
            f"{written.folder}: {module} is declared {layout}, which has {', '.join(sorted(needed))}; "
            f"the files have {', '.join(sorted(owned))}"
        )
    if small := _small_floats(written, arguments, layout, first):
        codec, shape = small
        parts = {name.rpartition(".")[2]: written.array(name) for name in needed}
        for part, (dtype, size) in codec.parts(shape).items():
            if tensors[f"{module}.{part}"].dtype != dtype or parts[part].size != math.prod(size):
                raise VerificationError(
                    f"{written.folder}: {module}.{part} is not that of {codec.label} {list(shape)}"
                )
            parts[part] = parts[part].reshape(size)
        return shape, decoded_rows(codec, shape, parts), needed
    scale = tensors[f"{module}.weight_scale"]
    loaded = str(written.config.get("dtype", written.config.get("torch_dtype")))
    if scale.dtype not in _EXACT.get(loaded, ()):
        raise VerificationError(
            f"{written.folder}: {module}.weight_scale is {scale.dtype}, which loading casts to {loaded}"
        )
    codec = DenseCodec("F8_E4M3")
    if arguments["type"] == "int":
        codec = IntegerCodec(arguments["num_bits"], arguments["group_size"], arguments["symmetric"], scale.dtype)
    told = written.array(f"{module}.weight_shape") if layout == "pack-quantized" else tensors[first].shape
    shape = (int(told[0]), int(told[1]))
    group_size = arguments["group_size"] or shape[1]
    sizes = {"weight_scale": (shape[0], shape[1] // group_size)}
    if layout == "pack-quantized":
        bits = arguments["num_bits"]
        sizes["weight_packed"] = (shape[0], -(-shape[1] * bits // 32))
        sizes["weight_zero_point"] = (-(-shape[0] * bits // 32), sizes["weight_scale"][1])
    else:
        sizes["weight_zero_point"] = sizes["weight_scale"]
    for part, size in sizes.items():
        stored = tensors.get(f"{module}.{part}")
        if shape[1] % group_size or (stored is not None and stored.shape != size):
            raise VerificationError(
                f"{written.folder}: {module}.{part} has shape {list(stored.shape) if stored else []}; "
                f"{codec.label} of {list(shape)} has {list(size)}"
            )
    parts = {name.rpartition(".")[2]: written.array(name) for name in needed}
    return shape, decoded_rows(codec, shape, parts), needed


def _small_floats(
    written: DiskFolder, arguments: Mapping[str, Any], layout: str, first: str
) -> tuple[Codec, tuple[int, int]] | None:
    """Return the codec and shape of floats under scales of their own; None for the other layouts."""
    stored = written.tensors[first]
    rows, columns = stored.shape[0], stored.shape[-1]
    if layout == "nvfp4-pack-quantized":
        return Nvfp4Codec(arguments["group_size"]), (rows, 2 * columns)
    if layout == "mxfp4-pack-quantized":
        return MicroscalingCodec("F4_E2M1", arguments["group_size"]), (rows, 2 * columns)
    if layout == "mxfp8-quantized":
        return MicroscalingCodec("F8_E4M3", arguments["group_size"]), (rows, columns)
    strategy = arguments["strategy"]
    if layout == "float-quantized" and strategy in ("block", "tensor"):
        block = arguments["block_structure"] if strategy == "block" else (None, None)
        scale = written.tensors[first.removesuffix("weight") + "weight_scale"]
        return Float8Codec(stored.dtype, block[0], block[1], scale.dtype), (rows, columns)
    return None
