"""Answers to what people ask of a model's cost: the numbers as plain data, and the same in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.units import format_size
from steelyard.weigh.setup import TrainingSetup

PROMPT = 1024
"""Tokens of a prompt where nothing else is asked."""

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Answer:
    """One question answered.

    Attributes:
        key: its name among plain data.
        heading: of the question.
        lines: names and what they are, for people.
        data: the same for programs; bytes, seconds and operations as numbers.
    """

    key: str
    heading: str
    lines: tuple[tuple[str, str], ...]
    data: Mapping[str, Any]


def compute(spec: ModelSpec, context: int, batch: int = 1) -> Answer:
    """Return the operations of reading a prompt, writing a token and training, for all sequences together."""
    from steelyard.weigh import flops

    prefill = flops.prefill(spec, context, batch)
    training = flops.training(spec, context, batch)
    rule = flops.six_nd(spec, context * batch)
    data: dict[str, Any] = {
        "context": context,
        "batch": batch,
        "prefill": _operations(prefill),
        "training": _operations(training),
        "six_nd": rule,
        "six_nd_error": rule / training.total - 1,
    }
    lines = [
        (f"forward pass over {batch} x {context:,} tokens", f"{_flops(prefill.total)}, {_share(prefill)}"),
        ("the same without the head", _flops(prefill.without_head)),
    ]
    if spec.generates:
        decode = flops.decode(spec, context, batch)
        data["decode"] = _operations(decode)
        lines.append((f"one more token after {context:,}", f"{_flops(decode.total)}, {_share(decode)}"))
    lines += [
        ("training step (forward and backward)", _flops(training.total)),
        ("6 N D says", f"{_flops(rule)}, {100 * data['six_nd_error']:+.1f} %"),
    ]
    return Answer("compute", "operations", tuple(lines), data)


def cache(spec: ModelSpec, context: int, batch: int = 1, bits: int = 16) -> Answer:
    """Return what is kept of a context."""
    from steelyard.weigh.cache import plan_cache

    plan = plan_cache(spec, context, batch, bits)
    data = {"context": context, "batch": batch, "bits": bits, "bytes": plan.total, **dict(plan.by_name)}
    lines = [(f"{batch} x {context:,} tokens at {bits} bits", _size(plan.total))]
    if len(plan.by_name) > 1:
        lines += [(name, _size(count)) for name, count in plan.by_name.items()]
    return Answer("cache", "kept of the context", tuple(lines), data)


def training_setup(text: str) -> TrainingSetup:
    """Return a setup from words such as "adamw,batch=8,sequence=2048,checkpointing=full,zero_stage=2,ranks=8".

    Raises:
        UserError: naming the word that is not understood and the accepted ones.
    """
    hints = get_type_hints(TrainingSetup)
    names = {item.name for item in fields(TrainingSetup)}
    values: dict[str, Any] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = word.partition("=")
        name = name.strip().replace("-", "_") if equals else "optimizer"
        if name not in names:
            raise UserError(f"--train: {word!r} is not understood; give NAME=VALUE with {', '.join(sorted(names))}")
        values[name] = _parsed(name, value.strip() if equals else word, hints[name])
    return TrainingSetup(**values)


def _parsed(name: str, text: str, hint: Any) -> Any:
    if hint is int:
        if not text.lstrip("-").isdigit():
            raise UserError(f"--train: {name} must be a whole number, got {text!r}")
        return int(text)
    if hint is bool or name == "master_weights":
        if text.lower() not in (*_TRUE, *_FALSE):
            raise UserError(f"--train: {name} must be true or false, got {text!r}")
        return text.lower() in _TRUE
    return tuple(text.split("+")) if name == "lora_targets" else text


def training(spec: ModelSpec, setup: TrainingSetup) -> Answer:
    """Return the memory of training on one device, with the textbook's and DeepSpeed's own formulas beside it."""
    from steelyard.weigh.training import plan_training

    plan = plan_training(spec, setup)
    data = {
        "setup": asdict(setup),
        "parts": dict(plan.parts),
        "phases": dict(plan.phases),
        "peak": plan.peak,
        "total": plan.total,
        "host": dict(plan.host),
        "nvme": dict(plan.nvme),
        "trained": plan.trained,
        "notes": list(plan.notes),
    }
    lines = [(name, _size(count)) for name, count in plan.parts.items() if count]
    lines += [("most at once on the fullest device", _size(plan.peak)), ("all of it together", _size(plan.total))]
    lines += [(f"host: {name}", _size(count)) for name, count in plan.host.items() if count]
    lines += [(f"drives: {name}", _size(count)) for name, count in plan.nvme.items() if count]
    lines += [("parameters that learn", f"{plan.trained:,}"), *(("note", note) for note in plan.notes)]
    return Answer("training", "memory of training, on each device", tuple(lines), data)


@dataclass(frozen=True)
class Load:
    """What is asked of a platform.

    Attributes:
        count: devices.
        parallelism: how the model is split among them.
        prompt: tokens of each prompt.
        context: tokens in the cache of each sequence; None for the prompt's.
        batch: sequences.
        weight_bits: of a weight, scales included; None for as stored.
        cache_bits: of a number in the cache.
    """

    count: int = 1
    parallelism: Any = "tp"
    prompt: int = PROMPT
    context: int | None = None
    batch: int = 1
    weight_bits: float | None = None
    cache_bits: float = 16


def serving(spec: ModelSpec, device: str, load: Load) -> Answer:
    """Return the time, memory and energy of serving on a device."""
    from steelyard.weigh.platforms import serve

    found = serve(spec, device, **asdict(load))
    lines = [
        ("time to the first token", _seconds(found.ttft)),
        *([("time to each further token", _seconds(found.tpot))] if found.tpot is not None else []),
        ("tokens a second", f"{found.tokens_per_second:,.1f}, limited by {found.bottleneck}"),
        ("energy of a token", "unknown" if found.joules_per_token is None else f"{found.joules_per_token:.3g} J"),
        (
            "memory of each device",
            f"{_size(found.memory.total)} of {_size(found.memory.available)}"
            + ("" if found.memory.fits else ": does not fit"),
        ),
    ]
    return Answer("serving", f"on {found.platform}", tuple(lines), found.to_json())


def most(spec: ModelSpec, device: str, load: Load) -> Answer:
    """Return the largest batch, context and precision that fit on a device."""
    from steelyard.weigh.inverse import largest_fit

    context = load.context or load.prompt
    bits = 16.0 if load.weight_bits is None else load.weight_bits
    found = largest_fit(
        spec,
        device,
        count=load.count,
        parallelism=load.parallelism,
        context=context,
        batch=load.batch,
        weight_bits=bits,
        cache_bits=load.cache_bits,
    )
    longest = "without end" if found.largest_context is None else f"{found.largest_context:,} tokens"
    precise = "none of those tried" if found.largest_bits is None else f"{found.largest_bits:g}"
    lines = [
        (f"largest batch at {context:,} tokens", f"{found.largest_batch:,}"),
        (f"longest context of {load.batch} sequence(s)", longest),
        ("most bits of a weight at both", precise),
        ("left on each device as asked", _size(found.spare)),
        *(("note", note) for note in found.notes),
    ]
    return Answer("fit_on", f"what fits on {found.platform}, weights at {bits:g} bits", tuple(lines), asdict(found))


def cheapest_platforms(spec: ModelSpec, objective: str, load: Load, shown: int = 5) -> Answer:
    """Return the platforms that meet an objective such as "ttft=200ms,tpot=20ms", cheapest first."""
    from steelyard.weigh.inverse import cheapest

    found = cheapest(
        spec,
        objective,
        prompt=load.prompt,
        context=load.context,
        batch=load.batch,
        weight_bits=load.weight_bits,
        cache_bits=load.cache_bits,
    )
    lines = []
    for offer in found[:shown]:
        price = (
            "price unknown" if offer.dollars_per_hour is None else f"about ${offer.dollars_per_hour:.2f} an hour"
        )
        served = offer.serving
        further = "" if served.tpot is None else f", {_seconds(served.tpot)} a token"
        split = "" if offer.count == 1 else f" ({offer.parallelism})"
        name = f"{offer.count} x {offer.device}{split}"
        lines.append((name, f"{price}: {_seconds(served.ttft)} to the first token{further}"))
    data = {
        "objective": objective,
        "offers": [
            {
                "device": offer.device,
                "count": offer.count,
                "parallelism": offer.parallelism,
                "dollars_per_hour": offer.dollars_per_hour,
                "serving": offer.serving.to_json(),
            }
            for offer in found
        ],
    }
    return Answer("slo", f"platforms that meet {objective}", tuple(lines), data)


def trainable(device: str, count: int = 1, nvme: int = 0, host_memory: int = 0) -> Answer:
    """Return the largest model that can be trained on a device, by where its states are placed."""
    from steelyard.weigh.trainable import largest_trainable

    found = largest_trainable(device, count=count, host_memory=host_memory, nvme=nvme)
    lines = tuple(
        (item.strategy, f"{item.parameters / 1e9:,.2f} billion parameters; {item.limit} is full") for item in found
    )
    return Answer(
        "trainable", f"largest trainable model on {count} x {device}", lines, {"strategies": _plain(found)}
    )


def _plain(items: Any) -> list[dict[str, Any]]:
    return [asdict(item) for item in items]


def _operations(found: Any) -> dict[str, Any]:
    return {
        "total": found.total,
        "attention": found.attention,
        "head": found.head,
        "without_head": found.without_head,
        "linear": dict(found.linear),
        "other": dict(found.work),
    }


def _share(found: Any) -> str:
    return f"{100 * found.attention / max(1, found.total):.1f} % of it attention"


def _flops(count: float) -> str:
    for unit, name in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if count >= unit:
            return f"{count / unit:,.3g} {name}"
    return f"{count:,.0f} FLOP"


def _size(count: float) -> str:
    whole = round(count)
    return f"{whole:,} bytes ({format_size(abs(whole)) if whole >= 0 else '-' + format_size(-whole)})"


def _seconds(value: float) -> str:
    return f"{1e3 * value:,.3g} ms" if value < 1 else f"{value:,.3g} s"
