"""Streamed 4-bit quantization of synthetic sharded checkpoints: seconds, anonymous memory, ratio to the floor.

    python benchmarks/streaming.py [GB ...]

The floor is a plain loop over the same files in one pass: map, encode with the bare kernel on all processors,
write. `quantize` also hashes its input, measures each tensor's error, and opens the result again to prove it. The
start-up is the same command on a checkpoint of 2 MB. Peak anonymous memory is the kernel's own account of the child
(RssAnon), sampled while it runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from steelyard.weights import FolderWriter, StoredTensor, plan_layout


def make_model(folder: Path, gigabytes: float) -> None:
    """Write a Llama-shaped bf16 checkpoint of about this size in shards of 500 MB."""
    hidden, ffn, vocabulary = 2048, 8192, 32000
    per_layer = 2 * (4 * hidden * hidden + 3 * hidden * ffn)
    layers = max(1, round((gigabytes * 1e9 - 2 * 2 * vocabulary * hidden) / per_layer))
    write_model(folder, hidden, ffn, vocabulary, layers)


def make_small(folder: Path) -> None:
    """Write a checkpoint of 2 MB."""
    write_model(folder, 256, 512, 500, 1)


def write_model(folder: Path, hidden: int, ffn: int, vocabulary: int, layers: int) -> None:
    """Write a Llama-shaped checkpoint of normal noise."""
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{prefix}self_attn.{name}.weight"] = (hidden, hidden)
        shapes[f"{prefix}mlp.gate_proj.weight"] = shapes[f"{prefix}mlp.up_proj.weight"] = (ffn, hidden)
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, ffn)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{name}.weight"] = (hidden,)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": ffn,
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


def floor_seconds(model: Path, out: Path) -> float:
    """Return the seconds of a plain loop over the files: map, encode with the bare kernel, write; nothing else."""
    from steelyard.codecs import IntegerCodec

    codec = IntegerCodec(4, 64, True, "BF16")
    rows, columns = 8192, 4096
    codec.encode(np.ones((64, columns), ml_dtypes.bfloat16))  # the kernel's loading belongs to the start-up
    began = time.monotonic()
    with open(out, "wb") as file:
        for shard in sorted(model.glob("*.safetensors")):
            values = np.memmap(shard, ml_dtypes.bfloat16, "r", offset=8 + _header_bytes(shard))
            for start in range(0, values.size, rows * columns):
                piece = values[start : start + rows * columns]
                matrix = piece[: piece.size // columns * columns].reshape(-1, columns)
                for part in codec.encode(matrix).values():
                    file.write(np.ascontiguousarray(part).view(np.uint8).data)
    seconds = time.monotonic() - began
    out.unlink()
    return seconds


def _header_bytes(shard: Path) -> int:
    with open(shard, "rb") as file:
        return int.from_bytes(file.read(8), "little")


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


def quantize(model: Path, out: Path) -> tuple[float, int]:
    """Return the least seconds of three runs of the command, and the most anonymous memory of any."""
    steelyard = str(Path(sys.executable).with_name("steelyard"))
    rows = []
    for _ in range(3):
        rows.append(run([steelyard, "quantize", str(model), "--out", str(out)]))
        shutil.rmtree(out)
    return min(row[0] for row in rows), max(row[1] for row in rows)


def main() -> None:
    """Print one row a size."""
    sizes = [float(word) for word in sys.argv[1:]] or [1.0, 3.0]
    folder = Path(tempfile.mkdtemp(prefix="steelyard-streaming-"))
    try:
        make_small(folder / "small")
        start_up, _ = quantize(folder / "small", folder / "out")
        print(f"start-up {start_up:.2f} s (a checkpoint of 2 MB)")
        print(f"{'bf16 GB':>8} {'floor s':>8} {'quantize s':>11} {'less start-up / floor':>22} {'anon MB':>8}")
        for size in sizes:
            model = folder / "model"
            make_model(model, size)
            nbytes = sum(path.stat().st_size for path in model.glob("*.safetensors"))
            floor = min(floor_seconds(model, folder / "floor.bin") for _ in range(3))
            seconds, anonymous = quantize(model, folder / "out")
            ratio = (seconds - start_up) / floor
            row = f"{nbytes / 1e9:8.2f} {floor:8.2f} {seconds:11.2f} {ratio:22.1f} {anonymous / 1e6:8.0f}"
            print(row, flush=True)
            shutil.rmtree(model)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
