"""How one tensor is stored: encode, decode and exact bytes. Torch-free; numba is imported at the first encoding.

A codec is one file here: a frozen dataclass that derives from `Codec` and has a `name`. Files are found by
themselves; nothing else has to be touched.
"""

from __future__ import annotations

import importlib
import pkgutil

from steelyard.codecs.base import Codec, Parts, check_parts, from_dict, names
from steelyard.codecs.blobs import blob, split
from steelyard.codecs.by_rows import chunks, relative_error, slice_parts
from steelyard.codecs.dense import DenseCodec
from steelyard.codecs.integer import IntegerCodec
from steelyard.codecs.low_rank import LowRankCodec
from steelyard.codecs.rows import compile_kernels, pack, require_finite, unpack
from steelyard.codecs.sum import SumCodec

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

NAMES = names()
"""The names of all codecs."""

__all__ = [
    "NAMES",
    "Codec",
    "DenseCodec",
    "IntegerCodec",
    "LowRankCodec",
    "Parts",
    "SumCodec",
    "blob",
    "check_parts",
    "chunks",
    "compile_kernels",
    "from_dict",
    "names",
    "pack",
    "relative_error",
    "require_finite",
    "slice_parts",
    "split",
    "unpack",
]
