r"""Adapters against peft and mergekit: wall time, processor time, anonymous memory.

    python benchmarks/lora.py --work DIR --gigabytes 1 [--peft VENV/bin/python] \
        [--mergekit VENV/bin/mergekit-extract-lora]

The models are those of `benchmarks/merge.py`. An adapter of rank 16 on every linear map is merged into the base by
steelyard and, where its Python is given, by peft; one of rank 16 is extracted from an expert by steelyard and,
where it is given, by mergekit. Every run is a whole process with the page cache warm; the best of `--repeats`
counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from merge import Run, measure, write_models
from steelyard.weights import Checkpoint, FolderWriter, StoredTensor, plan_layout

RANK = 16
_PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""


def write_adapter(base: Path, out: Path) -> None:
    """Write an adapter for every linear map of the blocks, unless it is there."""
    if out.exists():
        return
    arrays: dict[str, np.ndarray] = {}
    draw = np.random.default_rng(9)
    with Checkpoint.open(base) as checkpoint:
        for name in checkpoint.names:
            shape = checkpoint.info(name).shape
            if "_proj" in name:
                stem = "base_model.model." + name.removesuffix(".weight")
                arrays[f"{stem}.lora_A.weight"] = draw.standard_normal((RANK, shape[1]), np.float32) * np.float32(
                    0.02
                )
                arrays[f"{stem}.lora_B.weight"] = draw.standard_normal((shape[0], RANK), np.float32) * np.float32(
                    0.02
                )
    layout = plan_layout([StoredTensor(name, "F32", array.shape) for name, array in arrays.items()])
    modules = sorted({name.rsplit(".", 3)[1] for name in arrays})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": modules, "inference_mode": True}
    with FolderWriter(out, layout) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
        writer.add_file("adapter_config.json", json.dumps(config).encode())
        folder = writer.finish()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def best(command: list[str], work: Path, out: Path, repeats: int) -> Run:
    """Return the fastest of some runs."""
    return min((measure(command, work, out) for _ in range(repeats)), key=lambda run: run.wall)


def show(label: str, run: Run) -> None:
    """Print a row of the table."""
    print(f"| {label} | {run.wall:.1f} | {run.cpu:.1f} | {run.memory / 1e6:,.0f} |", flush=True)


def main() -> None:
    """Measure what is asked and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--peft")
    parser.add_argument("--mergekit")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    write_models(work, given.gigabytes)
    write_adapter(work / "base", work / "adapter")
    steelyard, out = [sys.executable, "-m", "steelyard.cli"], work / "out"
    print("| | wall s | processor s | anonymous MB |\n| --- | ---: | ---: | ---: |")
    command = [*steelyard, "merge-lora", "base", "adapter", "--out", str(out)]
    show("merge-lora", best(command, work, out, given.repeats))
    if given.peft:
        command = [given.peft, "-c", _PEFT, str(work / "base"), str(work / "adapter"), str(out)]
        show("peft merge_and_unload", best(command, work, out, given.repeats))
    command = [*steelyard, "extract-lora", "expert1", "--base", "base", "--rank", str(RANK), "--out", str(out)]
    show("extract-lora", best([*command, "--embeddings", "skip"], work, out, given.repeats))
    if given.mergekit:
        command = [given.mergekit, "--model", str(work / "expert1"), "--base-model", str(work / "base")]
        command += ["--out-path", str(out), "--max-rank", str(RANK), "-e", "embed_tokens|lm_head"]
        show("mergekit-extract-lora", best(command, work, out, given.repeats))


if __name__ == "__main__":
    main()
