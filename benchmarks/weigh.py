"""`steelyard weigh` beside its peers: start-up, seconds and memory of whole processes, on this machine alone.

    python benchmarks/weigh.py [--peers] [--repeats 5]

Three subjects: the bundled model, a published config without weights, and a synthetic 400-GB checkpoint of 100
sparse shards with real headers. `--peers` makes an environment of its own (benchmarks/.weigh-peers) for accelerate
(`estimate-memory` works on hub ids alone, so its own function is called on a local config) and hf-mem (which has no
local mode: its start-up is what can be timed). Building on the meta device is timed in the environment at hand.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = HERE / ".weigh-peers"
STEELYARD = str(Path(sys.executable).with_name("steelyard"))

LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
META = """
import json, sys, torch, transformers
config = transformers.AutoConfig.for_model(**json.load(open(sys.argv[1])))
with torch.device("meta"):
    model = transformers.AutoModelForCausalLM.from_config(config)
print(sum(p.numel() for p in model.parameters()))
"""
ACCELERATE = """
import json, sys, transformers
from accelerate import init_empty_weights
from accelerate.commands.estimate import calculate_maximum_sizes
config = transformers.AutoConfig.for_model(**json.load(open(sys.argv[1])))
with init_empty_weights():
    model = transformers.AutoModelForCausalLM.from_config(config)
print(calculate_maximum_sizes(model))
"""


def sparse_checkpoint(folder: Path, shards: int = 100, gigabytes: float = 400.0) -> int:
    """Write shards with real headers and holes for data; return the bytes they claim."""
    folder.mkdir()
    rows = round(gigabytes * 1e9 / shards / 4 / (8192 * 2))
    weight_map, claimed = {}, 0
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        header, begin = {}, 0
        for part in ("q", "k", "v", "o"):
            tensor = f"model.layers.{shard}.attention.{part}.weight"
            end = begin + rows * 8192 * 2
            header[tensor] = {"dtype": "BF16", "shape": [rows, 8192], "data_offsets": [begin, end]}
            weight_map[tensor], begin = name, end
        text = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + begin)
        claimed += 8 + len(text) + begin
    index = {"metadata": {"total_size": claimed}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "synthetic"}))
    return claimed


def timed(command: list[str], repeats: int) -> tuple[float, int]:
    """Return the median seconds of whole processes and the most resident bytes of one."""
    seconds, peak = [], 0
    for _ in range(repeats):
        began = time.monotonic()
        pid = os.posix_spawn(
            command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        )
        _, status, usage = os.wait4(pid, 0)
        seconds.append(time.monotonic() - began)
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"{' '.join(command)} failed")
        peak = max(peak, usage.ru_maxrss * 1024)
    return statistics.median(seconds), peak


def make_environment() -> str:
    """Install the peers once, apart from everything else; return their Python."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        subprocess.run([*pip, "transformers==5.17.0", "accelerate", "hf-mem"], check=True)
        (ENVIRONMENT / ".ready").touch()
    return str(python)


def main() -> None:
    """Print one row a process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="steelyard-weigh-"))
    try:
        claimed = sparse_checkpoint(work / "large")
        config = work / "config.json"
        config.write_text(json.dumps(LLAMA_70B))
        rows = [
            ("steelyard --help", [STEELYARD, "--help"]),
            ("steelyard weigh reference", [STEELYARD, "weigh", "reference"]),
            ("steelyard weigh CONFIG (Llama 70B)", [STEELYARD, "weigh", str(config)]),
            ("the same with --context 8192", [STEELYARD, "weigh", str(config), "--context", "8192"]),
            (f"steelyard weigh {claimed / 1e9:.0f} GB in 100 shards", [STEELYARD, "weigh", str(work / "large")]),
            ("meta device, transformers (Llama 70B)", [sys.executable, "-c", META, str(config)]),
        ]
        if arguments.peers:
            python = make_environment()
            rows += [
                ("accelerate's estimate, local config", [python, "-c", ACCELERATE, str(config)]),
                ("hf-mem --help (it has no local mode)", [str(Path(python).with_name("hf-mem")), "--help"]),
            ]
        print(f"{'seconds':>8} {'MB':>6}  process")
        for name, command in rows:
            seconds, peak = timed(command, arguments.repeats)
            print(f"{seconds:8.2f} {peak / 1e6:6.0f}  {name}", flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
