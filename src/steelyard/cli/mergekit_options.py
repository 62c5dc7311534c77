"""mergekit's spellings on the command line of `merge`: those that mean something here do it, others say why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from steelyard.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])

_META = "steelyard.mergekit"
_BYTES = 2  # of a parameter, in the types that most results have
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}

MEANT = {
    "--random-seed": "seed",
    "--num-threads": "workers",
    "--out-shard-size": "max_shard_size",
    "--intermediate-dir": "intermediate",
    "--out-path": "out",
}
"""What is another option's name here, and that option."""

_PROCESSORS = "pieces are merged by this machine's processors, without a GPU"
_STREAMED = "models are streamed and never loaded"

WITHOUT_EFFECT = {
    "--cuda": _PROCESSORS,
    "--device": _PROCESSORS,
    "--read-to-gpu": _PROCESSORS,
    "--multi-gpu": _PROCESSORS,
    "--gpu-rich": _PROCESSORS,
    "--low-cpu-memory": _STREAMED,
    "--lazy-unpickle": _STREAMED,
    "--load-in-4bit": "the base of a mixture runs block by block in float32",
    "--load-in-8bit": "the base of a mixture runs block by block in float32",
    "--clone-tensors": "a layer that occurs twice is written twice",
    "--async-write": "pieces are written as soon as they are merged",
    "--write-threads": "the threads that merge write",
    "--trust-remote-code": "code of models is never run",
    "--lora-merge-cache": "adapters are applied while their base is read",
    "--lora-merge-dtype": "adapters are applied in float32",
    "--lazy": "--resume takes over what is finished",
    "--i-understand-this-is-not-useful-without-training": "a mixture of one model is made, with a note",
    "--quiet": "progress is drawn on terminals only",
    "--verbosity": "there is no log",
}
"""What has no meaning here, and why."""

_AS_ALWAYS = {
    "--copy-tokenizer": "the tokenizer of the base goes along in any case",
    "--write-model-card": "the model card is always written",
}
_REFUSED = {
    "--unsafe-truncate-embeddings": "declare a vocabulary in the recipe instead: tokenizer_source: union, or base",
    "--transformers-cache": "models are looked for in the Hugging Face cache; HF_HUB_CACHE says where that is",
}
_VALUED = {"--device", "--write-threads", "--lora-merge-cache", "--lora-merge-dtype", "--transformers-cache"}


def mergekit_options(function: Function) -> Function:
    """Give a click command mergekit's options, which its help does not list."""
    for flag, target in MEANT.items():
        names = [flag, "-j"] if target == "workers" else [flag]
        function = _hidden(names, _take(target), type=str, help=f"mergekit's name of {target}")(function)
    for flag, reason in WITHOUT_EFFECT.items():
        if flag == "--verbosity":
            option = _hidden(["-v", flag], _note("-v", reason), count=True, help=reason)
        elif flag in _VALUED:
            option = _hidden([flag], _note(flag, reason), type=str, help=reason)
        else:
            names = [f"{flag}/--no-{flag[2:]}"]
            option = _hidden(names, _note(flag, reason), default=None, help=reason)
        function = option(function)
    for flag, reason in _AS_ALWAYS.items():
        names = [f"{flag}/--no-{flag[2:]}"]
        function = _hidden(names, _note(f"--no-{flag[2:]}", reason, False), default=None, help=reason)(function)
    for flag, reason in _REFUSED.items():
        kind: dict[str, Any] = {"type": str} if flag in _VALUED else {"is_flag": True, "default": None}
        function = _hidden([flag], _refuse(flag, reason), help=reason, **kind)(function)
    names = ["--safe-serialization/--no-safe-serialization"]
    refused = _refuse("--no-safe-serialization", "pickles are never written", False)
    return _hidden(names, refused, default=None, help="results are safetensors")(function)


def given(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return options with what mergekit's spellings say filled in, and notes about those that say nothing here.

    Raises:
        UserError: if one thing is said in both spellings.
    """
    found = click.get_current_context().meta.get(_META, {})
    merged = dict(values)
    for flag, value in found.get("taken", {}).items():
        target = MEANT[flag]
        if merged.get(target) is not None:
            raise UserError(f"{flag} and --{target.replace('_', '-')} are the same; give one of them")
        merged[target] = _bytes(flag, value) if target == "max_shard_size" else value
    return merged, found.get("notes", [])


def _bytes(flag: str, value: str) -> int:
    """Return bytes from mergekit's number of parameters: thousands (K), millions (M), thousand millions (B)."""
    text = value.strip().upper()
    number = text.removesuffix("B") if text.endswith("B") else text.rstrip("KM")
    try:
        return int(float(number) * _UNITS.get(text[len(number) :], 1) * _BYTES)
    except ValueError:
        raise UserError(f"{flag}: a number of parameters such as 5B is expected, got {value!r}") from None


def _hidden(names: list[str], callback: Any, **settings: Any) -> Callable[[Function], Function]:
    return click.option(*names, callback=callback, expose_value=False, hidden=True, **settings)


def _found(context: click.Context) -> dict[str, Any]:
    kept: dict[str, Any] = context.meta.setdefault(_META, {"taken": {}, "notes": []})
    return kept


def _take(target: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    flag = next(flag for flag, meant in MEANT.items() if meant == target)

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            _found(context)["taken"][flag] = value

    return callback


def _note(
    flag: str, reason: str, when: bool | None = None
) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Return what notes an option; only at the value `when` if that is given."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        said = bool(value) if when is None else value is when
        if said:
            _found(context)["notes"].append(f"{flag} has no effect: {reason}")

    return callback


def _refuse(flag: str, reason: str, when: bool = True) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and (value is when or isinstance(value, str)):
            raise UserError(f"{flag}: {reason}")

    return callback
