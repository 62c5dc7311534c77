"""Steelyard: give it a checkpoint and a budget; it returns the best model that fits, with the evidence.

    import steelyard as sy
    sy.fit("path/to/model", size="4MiB", out="small")

Jobs: `fit`, `quantize`, `prepare`, `merge`, `stitch`, `bridge`, `nest`, `measure`, `weigh`, `spec`, `open`, `load`,
`grow`, `shed`, `switch`, `parametrize`.
With several models: `align`, `fuse`, `barrier`, `merge_lora`, `extract_lora`, `search_merge`, `learn_merge`,
`soup`.
Errors: `UserError` for what the caller can put right.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from steelyard import registration

if TYPE_CHECKING:
    from steelyard.api import (
        bridge,
        fit,
        measure,
        merge,
        nest,
        open,
        parametrize,
        prepare,
        quantize,
        spec,
        stitch,
        weigh,
    )
    from steelyard.api_models import (
        align,
        barrier,
        extract_lora,
        fuse,
        learn_merge,
        merge_lora,
        search_merge,
        soup,
    )
    from steelyard.errors import SteelyardError, UserError, VerificationError
    from steelyard.loading import grow, load, shed, switch

__version__ = "0.1.0"

# Looked up when first used, so that `import steelyard` costs nothing.
_HOMES = {
    "fit": "steelyard.api",
    "prepare": "steelyard.api",
    "quantize": "steelyard.api",
    "convert": "steelyard.api",
    "measure": "steelyard.api",
    "merge": "steelyard.api",
    "stitch": "steelyard.api",
    "bridge": "steelyard.api",
    "open": "steelyard.api",
    "spec": "steelyard.api",
    "weigh": "steelyard.api",
    "nest": "steelyard.api",
    "parametrize": "steelyard.api",
    "tune": "steelyard.api",
    "align": "steelyard.api_models",
    "barrier": "steelyard.api_models",
    "extract_lora": "steelyard.api_models",
    "fuse": "steelyard.api_models",
    "learn_merge": "steelyard.api_models",
    "merge_lora": "steelyard.api_models",
    "search_merge": "steelyard.api_models",
    "soup": "steelyard.api_models",
    "load": "steelyard.loading",
    "grow": "steelyard.loading",
    "shed": "steelyard.loading",
    "switch": "steelyard.loading",
    "SteelyardError": "steelyard.errors",
    "UserError": "steelyard.errors",
    "VerificationError": "steelyard.errors",
}

__all__ = [
    "SteelyardError",
    "UserError",
    "VerificationError",
    "__version__",
    "align",
    "barrier",
    "bridge",
    "convert",
    "extract_lora",
    "fit",
    "fuse",
    "grow",
    "learn_merge",
    "load",
    "measure",
    "merge",
    "merge_lora",
    "nest",
    "open",
    "parametrize",
    "prepare",
    "quantize",
    "search_merge",
    "shed",
    "soup",
    "spec",
    "stitch",
    "switch",
    "tune",
    "weigh",
]

# From here on transformers knows folders in Steelyard's own format; it is not imported for that.
registration.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'steelyard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
