"""Predicted and measured memory of real training steps and generation on the reference model.

Each setting runs in a process of its own, which prints how far the resident memory's peak rose above what it was
after the same with a model of next to no size: two steps of training, or a prompt and a few tokens.

    python benchmarks/memory.py [--only WORD]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steelyard import reference
from steelyard.spec import ModelSpec
from steelyard.weigh.activations import count_activations
from steelyard.weigh.cache import cache_bytes
from steelyard.weigh.setup import TrainingSetup
from steelyard.weigh.training import plan_training

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Case:
    """One setting: of training, or of generation where `tokens` says how many."""

    name: str
    setup: TrainingSetup
    tokens: int = 0


BASE = TrainingSetup(batch=4, sequence=512, precision="fp32", flash_attention=False)
CASES = (
    Case("AdamW, plain attention", BASE),
    Case("AdamW, fused attention", replace(BASE, flash_attention=True)),
    Case("AdamW, checkpoints", replace(BASE, checkpointing="full")),
    Case("AdamW, batch of 1", replace(BASE, batch=1)),
    Case("SGD, batch of 2", replace(BASE, optimizer="sgd", batch=2)),
    Case("AdamW in bfloat16, batch of 2", replace(BASE, precision="bf16", batch=2)),
    Case("generation, 8 sequences", replace(BASE, batch=8, sequence=448, flash_attention=True), tokens=32),
)


def config() -> dict[str, Any]:
    """The reference model's."""
    found: dict[str, Any] = json.loads((reference.path() / "config.json").read_text())
    return found


def predict(case: Case) -> int:
    """Bytes that the plan says."""
    if not case.tokens:
        return plan_training(ModelSpec.from_config(config()), case.setup).peak
    spec = ModelSpec.from_config(config(), "F32")
    context = case.setup.sequence + case.tokens
    kept = cache_bytes(spec, context, case.setup.batch, 32)
    # The most there is at once is while it reads the prompt.
    block = count_activations(spec, case.setup.sequence, case.setup.batch, width=4).working
    return sum(tensor.nbytes for tensor in spec.tensors.values()) + kept + block


def measure(case: Case) -> int:
    """Bytes by which a process's peak rises; runs the process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--run", case.name]
    # Freed blocks go back to the system at once, so that the peak is of what was in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout.split()[-1])


def run(case: Case) -> int:
    """Bytes by which this process's peak rises; to be called once in it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = AutoConfig.from_pretrained(reference.path())
    attention = "sdpa" if case.setup.flash_attention else "eager"
    width = torch.bfloat16 if case.setup.precision == "bf16" else torch.float32
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 2, "vocab_size": 32}
    small = type(made)(**{**made.to_dict(), **sizes})

    def work(shape: Any, batch: int, length: int) -> None:
        model = AutoModelForCausalLM.from_config(shape, attn_implementation=attention, dtype=width)
        ids = torch.randint(0, shape.vocab_size, (batch, length))
        if case.tokens:
            generate(model, ids, case)
        else:
            train(model, ids, case)

    # What code and libraries take shows in a model of the same kind with next to no numbers.
    work(small, 1, 8)
    before = peak()
    work(made, case.setup.batch, case.setup.sequence)
    return peak() - before


def generate(model: Any, ids: Any, case: Case) -> None:
    """Write some tokens."""
    import torch

    with torch.inference_mode():
        model.eval().generate(ids, max_new_tokens=case.tokens, min_new_tokens=case.tokens, do_sample=False)


def train(model: Any, ids: Any, case: Case) -> None:
    """Two steps: the second one has the optimizer's states from its beginning."""
    import torch

    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    optimizer = kinds[case.setup.optimizer](model.parameters(), lr=1e-5, foreach=False)
    model.train()
    if case.setup.checkpointing == "full":
        model.gradient_checkpointing_enable()
    for _ in range(2):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def peak() -> int:
    """The most bytes of this process that were ever in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(run(next(case for case in CASES if case.name == options.run)))
        return
    print("| setting | predicted MiB | measured MiB | error |\n| --- | ---: | ---: | ---: |")
    for case in CASES:
        if options.only in case.name:
            told, found = predict(case) / MEBIBYTE, measure(case) / MEBIBYTE
            print(f"| {case.name} | {told:.0f} | {found:.0f} | {told / found - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main()
