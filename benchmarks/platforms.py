"""Predicted and real times of this machine: prompts read and tokens written by transformers in float32.

    python benchmarks/platforms.py [FOLDER] [--cpu-time] [--json OUT]

The machine is measured first: products of matrices and a model of four tiny blocks, never the model that is
predicted. FOLDER is a plain checkpoint; the reference model if absent. Larger models of random weights follow, so
that the error is shown where weights no longer fit in a cache.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from steelyard.measure.speed import calibrate, next_token, read_prompt
from steelyard.spec import ModelSpec
from steelyard.weigh.devices import Device
from steelyard.weigh.machine import Clock, seconds_of
from steelyard.weigh.platforms import serve

PROMPTS = ((64, 1), (256, 1), (448, 1), (128, 8))
CONTEXTS = ((64, 1), (448, 1), (128, 8))
# Hidden size and blocks: 124 and 520 MB in float32.
RANDOM = ((640, 6), (1024, 10))


def random_llama(hidden: int, blocks: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )
    return LlamaForCausalLM(config)


def rows(name: str, model: LlamaForCausalLM, device: Device, clock: Clock) -> list[dict[str, object]]:
    spec = ModelSpec.from_config(model.config.to_dict(), dtype="F32")
    made: list[dict[str, object]] = []
    for kind, places in (("prefill", PROMPTS), ("decode", CONTEXTS)):
        for tokens, batch in places:
            run = read_prompt if kind == "prefill" else next_token
            real = seconds_of(run(model, tokens, batch), 6, clock)
            served = serve(spec, device, prompt=tokens, batch=batch, weight_bits=32, cache_bits=32, number="fp32")
            predicted = served.ttft if kind == "prefill" else served.tpot
            made.append(
                {
                    "model": name,
                    "pass": kind,
                    "tokens": tokens,
                    "batch": batch,
                    "predicted_ms": 1e3 * predicted,
                    "real_ms": 1e3 * real,
                    "error": predicted / real - 1,
                    "bound": (served.prefill if kind == "prefill" else served.decode).bound,
                }
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=str(files("steelyard.reference") / "model"))
    parser.add_argument("--cpu-time", action="store_true", help="for one thread on a shared core")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    clock = time.process_time if options.cpu_time else time.perf_counter
    device = calibrate(clock)
    print(f"{device.title}, {torch.get_num_threads()} thread(s)")
    print(f"fp32 {device.peak['fp32'] / 1e9:.0f} GFLOP/s, memory {device.bandwidth / 1e9:.1f} GB/s")
    print(f"{1e6 * device.kernel_seconds:.0f} us for each product, {1e9 * device.element_seconds:.2f} ns a number")
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    found = rows("reference", model, device, clock)
    for hidden, blocks in RANDOM:
        found += rows(f"llama {hidden} x {blocks}", random_llama(hidden, blocks).eval(), device, clock)
    print("model            pass     tokens batch  predicted       real   error  bound by")
    for row in found:
        print(
            f"{row['model']:16} {row['pass']:8} {row['tokens']:6} {row['batch']:5} {row['predicted_ms']:7.1f} ms "
            f"{row['real_ms']:7.1f} ms {row['error']:+7.0%}  {row['bound']}"
        )
    errors = sorted(abs(row["error"]) for row in found)
    print(f"absolute error: median {errors[len(errors) // 2]:.0%}, largest {errors[-1]:.0%}")
    if options.json:
        options.json.write_text(json.dumps({"device": device.to_json(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
