"""transformers' side of the native format: its config, its quantizer, and their registration.

Imported by `registration` once transformers' quantizers are there; importing it needs torch and transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from steelyard import codecs
from steelyard.errors import UserError
from steelyard.formats.native import QUANT_METHOD, require_version
from steelyard.formats.native.modules import Packed, PackedEmbedding, PackedLinear, packed_like
from steelyard.formats.native.torch_decoding import PackedMatrix
from steelyard.spec.registry import find_architecture


class SteelyardConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of a native folder.

    Args:
        version: of the format.
        tensors: codec and shape of every encoded tensor by name.
        growth: of nested tensors, the order in which they go up a level.
        load: of nested tensors, what to keep: {"bits": …} or {"budget_bytes": …}; not saved.
    """

    def __init__(
        self,
        version: int = 0,
        tensors: Mapping[str, Any] | None = None,
        growth: Mapping[str, Any] | None = None,
        load: Mapping[str, int] | None = None,
        **other: Any,
    ) -> None:
        require_version("config.json", version)
        self.quant_method = QUANT_METHOD
        self.version = version
        self.tensors = dict(tensors or {})
        self.growth = growth
        self.load = load

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json holds."""
        found = {"quant_method": QUANT_METHOD, "version": self.version, "tensors": copy.deepcopy(self.tensors)}
        if self.growth is not None:
            found["growth"] = copy.deepcopy(dict(self.growth))
        return found

    def matrices(self) -> dict[str, PackedMatrix]:
        """Return what the blob of each encoded tensor means.

        Raises:
            UserError: naming the unknown codec, field or value.
        """
        found = {}
        for name, entry in self.tensors.items():
            rows, columns = entry["shape"]
            found[name] = PackedMatrix(codecs.from_dict(entry["codec"]), (int(rows), int(columns)))
        return found


class SteelyardQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed modules in place of those whose weights the folder holds encoded."""

    requires_calibration = True
    quantization_config: SteelyardConfig

    def __init__(self, quantization_config: SteelyardConfig, **other: Any) -> None:
        super().__init__(quantization_config, **other)
        self._expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}

    def _process_model_before_weight_loading(self, model: Any, **other: Any) -> Any:
        dtype = other.get("dtype") or torch.get_default_dtype()
        placed: dict[str, PackedMatrix] = {}
        stored: dict[str, str] = {}
        modules = {name for name, _ in model.named_modules()}
        for name, matrix in self.quantization_config.matrices().items():
            for module in _spellings(model, name):
                if module in modules:
                    placed[module], stored[module] = matrix, name
                    break
        # A tied pair shares one blob: both of its modules must know how to read it.
        for pair in getattr(model, "all_tied_weights_keys", {}).items():
            first, second = (name.removesuffix(".weight") for name in pair)
            if first in placed or second in placed:
                matrix = placed.get(second) or placed[first]
                name = stored.get(second) or stored[first]
                placed.update({first: matrix, second: matrix})
                stored.update({first: name, second: name})
        for name, matrix in placed.items():
            module = model.get_submodule(name)
            packed = packed_like(module, matrix, dtype)
            if packed is None:
                raise UserError(
                    f"{name} is a {type(module).__name__} in {type(model).__name__}, which a packed "
                    f"{list(matrix.shape)} cannot stand in for; write the folder with --format dense"
                )
            packed.stored_name = stored[name]
            model.set_submodule(name, packed)
        self._expected = {name: (tuple(p.shape), p.dtype) for name, p in model.named_parameters()}
        return model

    def _process_model_after_weight_loading(self, model: Any, **other: Any) -> Any:
        for name, module in model.named_modules():
            if isinstance(module, Packed) and not getattr(module.weight, "_is_hf_initialized", False):
                raise _damaged(f"{name}.weight is in no weight file")
            if isinstance(module, Packed):
                module.like.data = module.like.data.to(module.weight.device)
            if isinstance(module, PackedLinear) and module.bias is not None:
                # Tying pads a head's bias to the length of its weight, here a number of bytes.
                module.bias.data = module.bias.data[: module.out_features]
        lists = (getattr(model, f"_keep_in_fp32_modules{which}", None) for which in ("", "_strict"))
        widened = {part for found in lists for part in found or ()}
        # With a quantizer at work, transformers takes every tensor as it comes.
        for name, parameter in model.named_parameters():
            shape, dtype = self._expected[name]
            if tuple(parameter.shape) != shape or parameter.is_floating_point() != dtype.is_floating_point:
                raise _damaged(f"{name} is stored as {_described(parameter)}, but must be {list(shape)}")
            # Tensors that were renamed come in the type of the file instead of the model's.
            wide = parameter.dtype == torch.float32 and any(part in name for part in widened)
            if parameter.dtype != dtype and not wide:
                parameter.data = parameter.data.to(dtype)
        # First of all, so that no more of the file is read than is kept.
        self._cut(model)
        for parameter in model.parameters():
            if parameter.dtype == torch.uint8 and parameter.data_ptr() % 8:
                # A view of a mapped file may start anywhere; whole words are read from it.
                parameter.data = parameter.data.clone()
        return model

    def _cut(self, model: Any) -> None:
        """Keep of nested weights what was asked for."""
        wanted, self.quantization_config.load = self.quantization_config.load, None
        if wanted is not None:
            from steelyard.formats.native.nesting import nesting, resize

            resize(nesting(model), wanted.get("budget_bytes"), wanted.get("bits"))

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        # transformers passes the config's type, which is a name once a model has been saved.
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        shared: dict[int, Any] = {}
        for name, module in list(model.named_modules()):
            if isinstance(module, PackedLinear | PackedEmbedding):
                plain = module.unpacked(kind)
                plain.weight = shared.setdefault(id(module.weight), plain.weight)
                model.set_submodule(name, plain)
        return model

    def is_serializable(self) -> bool:
        """Packed models are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Codes have no gradient."""
        return False


def _spellings(model: Any, name: str) -> Iterator[str]:
    """Yield what the module of a stored tensor may be called in a model, likeliest first.

    Files may spell names as older releases did, and lack the prefix of the base model or have one too much.
    """
    architecture = find_architecture(model.config.to_dict())
    prefix = f"{model.base_model_prefix}." if getattr(model, "base_model_prefix", "") else ""
    for spelling in [name] if architecture is None else [name, architecture.rename(name)]:
        module = spelling.removesuffix(".weight")
        yield from (module, module.removeprefix(prefix), prefix + module)


def _described(parameter: torch.Tensor) -> str:
    return f"{str(parameter.dtype).removeprefix('torch.')} {list(parameter.shape)}"


def _damaged(problem: str) -> UserError:
    return UserError(f"{problem}; the folder is damaged, write or download it again")


def register() -> None:
    """Make transformers know the format; nothing happens if it does."""
    if QUANT_METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(QUANT_METHOD)(SteelyardConfig)
    if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(QUANT_METHOD)(SteelyardQuantizer)
