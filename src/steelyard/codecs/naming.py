"""Codecs by the words that people type: short names, and any registered codec with its options."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from steelyard.codecs.base import Codec, codec_class, from_dict, names
from steelyard.errors import UserError

SHORT: Mapping[str, Mapping[str, Any]] = {
    **{f"int{bits}": {"name": "integer", "bits": bits, "group_size": 64} for bits in range(1, 9)},
    **{f"nf{bits}": {"name": "blockwise", "kind": "nf", "bits": bits} for bits in range(2, 9)},
    **{f"float{bits}": {"name": "blockwise", "kind": "float", "bits": bits} for bits in range(3, 9)},
    **{f"dynamic{bits}": {"name": "blockwise", "kind": "dynamic", "bits": bits} for bits in range(3, 9)},
    **{f"quantile{bits}": {"name": "blockwise", "kind": "quantile", "bits": bits} for bits in range(2, 9)},
    **{f"power{bits}": {"name": "power", "bits": bits} for bits in range(2, 9)},
    "fp4": {"name": "blockwise", "kind": "fp4", "bits": 4},
    "fp8": {"name": "float8"},
    "fp8-e5m2": {"name": "float8", "dtype": "F8_E5M2"},
    "fp8-tensor": {"name": "float8", "rows": None},
    "fp8-block": {"name": "float8", "rows": 128, "columns": 128, "scale_dtype": "F32"},
    "mxfp4": {"name": "microscaling"},
    "mxfp8": {"name": "microscaling", "element": "F8_E4M3"},
    "trilm": {"name": "ternary", "rows": None},
    "grid": {"name": "entropy", "base": {"name": "grid", "step": 0.5}},
}
"""What short names stand for; options given with one replace those here."""

_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None, "none": None, "row": None}


def named(text: str, scale_dtype: str = "BF16") -> Codec:
    """Return the codec that a text names.

    Args:
        text: a short name or a codec's, then its options: `nf4`, `blockwise:kind=nf,bits=3,block=128`,
            `entropy:base=(integer:bits=4,group_size=128)`. A codec within is in parentheses.
        scale_dtype: of scales that may have several types, where the text does not say.

    Raises:
        UserError: naming what is wrong and what there is.

    Example:
        >>> named("nf4:block=128,double=true").label
        'nf4 b128 dq'
    """
    return _made(_plain(text), scale_dtype, text)


def available() -> list[str]:
    """Return the short names and the registered codecs."""
    return sorted({*SHORT, *names()})


def _plain(text: str) -> dict[str, Any]:
    """Return plain data as `from_dict` takes it."""
    name, _, rest = text.strip().partition(":")
    data = dict(SHORT.get(name, {"name": name}))
    for item in _items(rest, text):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UserError(f"codec {text!r}: {item!r} is not an option such as block=64")
        # A grid under the coder is what its short name is about.
        inner = name == "grid" and key.strip() == "step"
        (data["base"] if inner else data)[key.strip()] = _value(value.strip())
    return data


def _items(text: str, whole: str) -> Iterator[str]:
    """Yield what commas divide, but not those within parentheses."""
    depth, begun = 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            yield text[begun:place]
            begun = place + 1
        if depth < 0:
            break
    if depth:
        raise UserError(f"codec {whole!r} has a parenthesis without its pair")
    if text[begun:].strip():
        yield text[begun:]


def _value(text: str) -> Any:
    if text.startswith("(") and text.endswith(")"):
        return _plain(text[1:-1])
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        number = json.loads(text)
    except ValueError:
        return text
    return number if isinstance(number, int | float) else text


def _made(data: dict[str, Any], scale_dtype: str, text: str) -> Codec:
    if data["name"] not in names():
        near = codec_hint(str(data["name"]))
        raise UserError(f"no codec is called {data['name']!r}; {near}available: {', '.join(available())}")
    fields = {field.name: field for field in dataclasses.fields(codec_class(data["name"]))}
    if "scale_dtype" in fields:
        data.setdefault("scale_dtype", scale_dtype)
    for key, value in data.items():
        if isinstance(value, Mapping):
            data[key] = _made(dict(value), scale_dtype, text).to_dict()
    try:
        return from_dict(data)
    except UserError as error:
        raise UserError(f"codec {text!r}: {error}") from None
    except (TypeError, ValueError):
        raise UserError(f"codec {text!r}: an option has a value of another kind than the codec takes") from None


def codec_hint(name: str) -> str:
    """Return "did you mean X? " for a name that is near one, else nothing."""
    import difflib

    near = difflib.get_close_matches(name, available(), n=1)
    return f"did you mean {near[0]}? " if near else ""
