"""How fast torch computes here: what `weigh.machine` measures, for forward passes as transformers runs them."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steelyard.spec import ModelSpec
from steelyard.weigh import machine
from steelyard.weigh.devices import Device
from steelyard.weigh.machine import Call, Clock, seconds_of
from steelyard.weigh.platforms import Platform
from steelyard.weigh.workload import Workload

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PROMPT, _LONG, _BATCH = 256, 512, 8


class TorchRunner:
    """Torch's linear maps, and the launches of a transformers model."""

    name = "torch"
    numbers: tuple[str, ...] = ("fp32", "bf16")

    def product(self, rows: int, inner: int, columns: int, number: str) -> Call:
        """Return a call that multiplies [rows, inner] by a transposed weight of [columns, inner]."""
        given = torch.ones((rows, inner), dtype=_TYPES[number])
        weight = torch.ones((columns, inner), dtype=_TYPES[number])
        return lambda: torch.nn.functional.linear(given, weight)

    def kernel_seconds(self, clock: Clock) -> float:
        """Return the time of a token of a model too small to compute or read anything, for each of its products."""
        model = _tiny(32)
        return seconds_of(next_token(model, 8), 50, clock) / Workload(_spec(model)).decode(8, 1).kernels


def calibrate(clock: Clock = time.perf_counter) -> Device:
    """Measure this machine as `weigh.machine.calibrate` does, for transformers' models.

    What kernels between products cost is what reading a prompt with a small model takes beyond its products; how
    often the cache is moved is told by how much longer a token takes after a long text than after a short one.

    Args:
        clock: see `weigh.machine.seconds_of`.
    """
    device = machine.calibrate(TorchRunner(), clock)
    model = _tiny(128)
    workload = Workload(_spec(model), weight_bits=32, cache_bits=32, activation_bits=32)
    work = workload.prefill(_PROMPT, 1)
    beyond = seconds_of(read_prompt(model, _PROMPT), 12, clock) - Platform(device).step(work, "fp32").total
    long, short = (seconds_of(next_token(model, tokens, _BATCH), 12, clock) for tokens in (_LONG, 8))
    cached = workload.cache_bytes(_LONG, _BATCH)
    passes = (long - short) * device.bytes_per_second(cached) / cached
    return replace(device, element_seconds=max(beyond, 0.0) / work.elements, cache_passes=max(passes, 1.0))


def _tiny(hidden: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        architectures=["LlamaForCausalLM"],
    )
    return LlamaForCausalLM(config).eval()


def _spec(model: LlamaForCausalLM) -> ModelSpec:
    return ModelSpec.from_config(model.config.to_dict(), dtype="F32")


def next_token(model: LlamaForCausalLM, context: int, batch: int = 1) -> Call:
    """Return a call that writes one token after `context` of them; the cache is cut back each time."""
    tokens = torch.zeros((batch, context), dtype=torch.long)
    with torch.inference_mode():
        cache = model(tokens, use_cache=True).past_key_values

    def step() -> None:
        with torch.inference_mode():
            model(tokens[:, :1], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return step


def read_prompt(model: LlamaForCausalLM, prompt: int, batch: int = 1) -> Call:
    """Return a call that reads prompts and computes the logits of their last token."""
    tokens = torch.zeros((batch, prompt), dtype=torch.long)

    def step() -> None:
        with torch.inference_mode():
            model(tokens, use_cache=True, logits_to_keep=1)

    return step
