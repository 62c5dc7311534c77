"""Streamed 4-bit quantization of synthetic sharded checkpoints: seconds, anonymous memory, ratio to the floor.

    python benchmarks/streaming.py [GB ...]

The floor is a plain read-compute-write loop in one pass over the same bytes: measured here as the bare kernel over
a matrix in memory plus writing its result, in the same process tree. Peak anonymous memory is read from the
kernel's own account of the child (RssAnon), sampled while it runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from steelyard.weights import FolderWriter, StoredTensor, plan_layout

HIDDEN, FFN, VOCABULARY = 2048, 8192, 32000


def make_model(folder: Path, gigabytes: float) -> None:
    """Write a Llama-shaped bf16 checkpoint of about this size in shards of 500 MB."""
    per_layer = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * FFN)
    layers = max(1, round((gigabytes * 1e9 - 2 * 2 * VOCABULARY * HIDDEN) / per_layer))
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    shapes["model.norm.weight"] = (HIDDEN,)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{prefix}self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{prefix}mlp.gate_proj.weight"] = shapes[f"{prefix}mlp.up_proj.weight"] = (FFN, HIDDEN)
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, FFN)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{name}.weight"] = (HIDDEN,)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    layout = plan_layout([StoredTensor(n, "BF16", s) for n, s in shapes.items()], max_shard_size=500_000_000)
    draw = np.random.default_rng(0)
    noise = (draw.standard_normal(1 << 24, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    with FolderWriter(folder, layout) as writer:
        for name, shape in shapes.items():
            writer.write(name, np.resize(np.roll(noise, len(name)), shape))
        writer.add_file("config.json", json.dumps(config).encode())
        writer.finish()


def floor_seconds(gigabytes: float, folder: Path) -> float:
    """Return the seconds of the bare kernel over as many bytes, result written to a file, one pass."""
    from steelyard.codecs import IntegerCodec

    codec = IntegerCodec(4, 64, True, "BF16")
    draw = np.random.default_rng(0).standard_normal((8192, 4096), dtype=np.float32) * 0.02
    matrix = draw.astype(ml_dtypes.bfloat16)
    codec.encode(matrix)
    rounds = round(gigabytes * 1e9 / matrix.nbytes)
    began = time.monotonic()
    with open(folder / "floor.bin", "wb") as file:
        for _ in range(rounds):
            for part in codec.encode(matrix).values():
                file.write(part.tobytes() if part.dtype.itemsize == 2 else part.data)
    seconds = time.monotonic() - began
    os.unlink(folder / "floor.bin")
    return seconds


def run(command: list[str]) -> tuple[float, int]:
    """Return the seconds of a command and its most anonymous memory in bytes."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    anonymous = 0
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                anonymous = max(anonymous, int(line.split()[1]) * 1024)
        time.sleep(0.01)
    if child.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.monotonic() - began, anonymous


def main() -> None:
    """Print one row a size."""
    sizes = [float(word) for word in sys.argv[1:]] or [1.0, 3.0]
    steelyard = str(Path(sys.executable).with_name("steelyard"))
    start_up, _ = run([steelyard, "--help"])
    print(
        f"{'bf16 GB':>8} {'floor s':>8} {'quantize s':>11} {'ratio':>6} {'anon MB':>8}   start-up {start_up:.2f} s"
    )
    for size in sizes:
        folder = Path(tempfile.mkdtemp(prefix="steelyard-streaming-"))
        try:
            make_model(folder / "model", size)
            nbytes = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
            best = min(floor_seconds(nbytes / 1e9, folder) for _ in range(2))
            rows = []
            for attempt in range(2):
                out = folder / f"out{attempt}"
                rows.append(run([steelyard, "quantize", str(folder / "model"), "--out", str(out)]))
                shutil.rmtree(out)
            seconds, anonymous = min(rows)[0], max(row[1] for row in rows)
            print(
                f"{nbytes / 1e9:8.2f} {best:8.2f} {seconds:11.2f} {seconds / best:6.1f} {anonymous / 1e6:8.0f}",
                flush=True,
            )
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
