"""What the formats of linear maps share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from steelyard.codecs import Codec
from steelyard.errors import UserError
from steelyard.formats.base import (
    base_config,
    is_plain,
    is_replaceable,
    loads_exactly,
    plain_pack,
    plain_stored,
    tensor_of,
)
from steelyard.formats.targets import module_name
from steelyard.spec import ModelSpec
from steelyard.weights.layout import StoredTensor

Key = TypeVar("Key", bound=Hashable)


class LinearFormat(ABC):
    """A format that encodes linear maps, [out, in] in the model, and writes everything else as plain numbers."""

    name = ""
    packs_tied = False

    def supports(self, spec: ModelSpec, name: str, codec: Codec) -> bool:
        """Tell whether a tensor can be stored under a codec, in a way that loads."""
        if is_plain(codec):
            return loads_exactly(spec, str(getattr(codec, "dtype", "")))
        tensor = tensor_of(spec, name)
        linear = tensor.kind == "linear" and len(tensor.shape) == 2 and not tensor.transposed
        linear = linear and is_replaceable(spec, name)
        head = name in spec.ties and len(tensor.shape) == 2
        return (linear or head) and name.endswith(".weight") and self.holds(spec, codec, tensor.matrix_shape)

    @abstractmethod
    def holds(self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]) -> bool:
        """Tell whether a matrix of that shape fits the layout."""

    @abstractmethod
    def layout(
        self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return type and shape of what is stored beside each other, by the end of its name."""

    @abstractmethod
    def arrays(
        self, spec: ModelSpec, codec: Codec, parts: Mapping[str, np.ndarray], shape: tuple[int, int], where: str
    ) -> dict[str, np.ndarray]:
        """Return what is stored, by the end of its name.

        Raises:
            UserError: if a value has no place in the layout.
        """

    @abstractmethod
    def quantization(self, spec: ModelSpec, codecs: Mapping[str, Codec], plain: list[str]) -> dict[str, Any]:
        """Return the content of quantization_config.

        Args:
            spec: the model.
            codecs: of the encoded modules.
            plain: the modules of linear maps that are not encoded.

        Raises:
            UserError: if the format cannot declare these codecs together.
        """

    def stored(self, spec: ModelSpec, name: str, codec: Codec) -> list[StoredTensor]:
        """Return what is written for a tensor."""
        if is_plain(codec):
            return plain_stored(spec, name, codec)
        module = module_name(spec, name)
        sizes = self.layout(spec, codec, tensor_of(spec, name).matrix_shape)
        return [StoredTensor(f"{module}.{part}", dtype, shape) for part, (dtype, shape) in sizes.items()]

    def pack(
        self, spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the arrays of what is written, by stored name."""
        if is_plain(codec):
            return plain_pack(spec, name, codec, parts)
        module = module_name(spec, name)
        made = self.arrays(spec, codec, parts, tensor_of(spec, name).matrix_shape, module)
        return {f"{module}.{part}": array for part, array in made.items()}

    def config(self, spec: ModelSpec, config: Mapping[str, Any], codecs: Mapping[str, Codec]) -> dict[str, Any]:
        """Return the content of config.json."""
        changed = base_config(spec, config, codecs)
        encoded = {module_name(spec, name): codec for name, codec in codecs.items() if not is_plain(codec)}
        if encoded:
            changed["quantization_config"] = self.quantization(spec, encoded, plain_linears(spec, encoded))
        return changed


def plain_linears(spec: ModelSpec, encoded: Collection[str]) -> list[str]:
    """Return the modules of linear maps, heads that are tied included, that are not encoded."""
    names = [name for name, tensor in spec.tensors.items() if tensor.kind == "linear" and len(tensor.shape) == 2]
    names += [alias for alias in spec.ties if alias.endswith(".weight")]
    modules = dict.fromkeys(module_name(spec, name) for name in names if name.endswith(".weight"))
    return [module for module in modules if module not in encoded]


def only(values: Iterable[Key], what: str, name: str) -> Key:
    """Return the value that all have.

    Raises:
        UserError: if they differ, naming them.
    """
    found = list(dict.fromkeys(values))
    if len(found) != 1:
        raise UserError(f"{name} has one {what} for all matrices, not {' and '.join(map(str, found))}")
    return found[0]


def commonest(values: Iterable[Key]) -> Key:
    """Return the value that most have, the first of those."""
    return Counter(values).most_common(1)[0][0]


def half_scales(scale: np.ndarray, where: str) -> np.ndarray:
    """Return scales as float16, the same numbers.

    Raises:
        UserError: if a scale is no float16.
    """
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), scale.astype(np.float32)):
        raise UserError(f"{where}: its scales are no float16 numbers, which this format keeps; use --requantize")
    return half
