"""How one tensor is stored: encode, decode and exact bytes. Torch-free; numba is imported at the first encoding.

A codec is one file here: a frozen dataclass that derives from `Codec` and has a `name`. Files are found by
themselves; nothing else has to be touched.
"""

from __future__ import annotations

import importlib
import pkgutil

from steelyard.codecs.any_precision import AnyPrecisionCodec
from steelyard.codecs.base import Codec, Parts, check_parts, from_dict, names
from steelyard.codecs.blobs import blob, split
from steelyard.codecs.blockwise import BlockwiseCodec
from steelyard.codecs.by_rows import RowCodec, chunks, relative_error, slice_parts
from steelyard.codecs.codebook import CodebookCodec
from steelyard.codecs.dense import DenseCodec
from steelyard.codecs.entropy import EntropyCodec
from steelyard.codecs.float8 import Float8Codec
from steelyard.codecs.grid import GridCodec
from steelyard.codecs.integer import IntegerCodec
from steelyard.codecs.low_rank import LowRankCodec
from steelyard.codecs.microscaling import MicroscalingCodec
from steelyard.codecs.nested import NestedCodec
from steelyard.codecs.nvfp4 import Nvfp4Codec
from steelyard.codecs.outliers import OutlierCodec
from steelyard.codecs.permuted import PermutedCodec
from steelyard.codecs.power import PowerCodec
from steelyard.codecs.rotated import RotatedCodec
from steelyard.codecs.rows import compile_kernels, pack, require_finite, unpack
from steelyard.codecs.sign_chain import SignChainCodec
from steelyard.codecs.sum import SumCodec
from steelyard.codecs.ternary import TernaryCodec

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

NAMES = names()
"""The names of all codecs."""

__all__ = [
    "NAMES",
    "AnyPrecisionCodec",
    "BlockwiseCodec",
    "CodebookCodec",
    "Codec",
    "DenseCodec",
    "EntropyCodec",
    "Float8Codec",
    "GridCodec",
    "IntegerCodec",
    "LowRankCodec",
    "MicroscalingCodec",
    "NestedCodec",
    "Nvfp4Codec",
    "OutlierCodec",
    "Parts",
    "PermutedCodec",
    "PowerCodec",
    "RotatedCodec",
    "RowCodec",
    "SignChainCodec",
    "SumCodec",
    "TernaryCodec",
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
