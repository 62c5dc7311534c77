"""Merging against mergekit and against the machine: wall time, processor time, anonymous memory.

    python benchmarks/merge.py --work DIR --gigabytes 1 [--mergekit VENV/bin/mergekit-yaml] [--methods ties,slerp]

Siblings of one synthetic Llama in bfloat16 are written once into the work folder: a base, and experts that differ
from it in every tenth entry. Each recipe is carried out by steelyard, by mergekit where it is given, and the
average of two as a plain loop in C too, which reads, computes and writes the same bytes from as many threads: the
floor. Every run is a whole process with the page cache warm; the best of `--repeats` counts. What a process takes
before and after its work is measured by merging models of a few hundred kilobytes: "start". Modules are compiled to
bytecode by the first run and stay so, as an installation from wheels leaves them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from steelyard.weights import FolderWriter, StoredTensor, plan_layout

EXPERTS = 3


@dataclass(frozen=True)
class Sizes:
    """Widths of a synthetic Llama."""

    hidden: int = 2048
    inner: int = 5632
    vocabulary: int = 32000


TINY = Sizes(64, 128, 256)

_FLOOR = r"""
#include <stdint.h>
#include <stddef.h>
static inline float wide(uint16_t bits) {
    union { uint32_t u; float f; } x; x.u = (uint32_t)bits << 16;
    return x.f;
}
static inline uint16_t narrow(float value) {
    union { uint32_t u; float f; } x; x.f = value;
    return (uint16_t)((x.u + 0x7fff + ((x.u >> 16) & 1)) >> 16);
}
void average(const uint16_t *a, const uint16_t *b, uint16_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = narrow(0.5f * wide(a[i]) + 0.5f * wide(b[i]));
}
"""

RECIPES = {
    "linear": "models: [{model: expert1}, {model: expert2}]\nmerge_method: linear\nparameters: {weight: 0.5}\n",
    "task_arithmetic": (
        "models: [{model: expert1}, {model: expert2}]\nmerge_method: task_arithmetic\nbase_model: base\n"
        "parameters: {weight: 0.5}\n"
    ),
    "slerp": (
        "models: [{model: base}, {model: expert1}]\nmerge_method: slerp\nbase_model: base\nparameters: {t: 0.4}\n"
    ),
    "nuslerp": ("models: [{model: expert1}, {model: expert2}]\nmerge_method: nuslerp\nparameters: {weight: 0.5}\n"),
    "dare_ties": (
        "models: [{model: expert1}, {model: expert2}]\nmerge_method: dare_ties\nbase_model: base\n"
        "parameters: {weight: 0.5, density: 0.3}\n"
    ),
    "ties": (
        "models: [{model: expert1}, {model: expert2}, {model: expert3}]\nmerge_method: ties\nbase_model: base\n"
        "parameters: {weight: 0.5, density: 0.5}\n"
    ),
    "passthrough": "models: [{model: expert1}]\nmerge_method: passthrough\n",
    "della": (
        "models: [{model: expert1}, {model: expert2}]\nmerge_method: della\nbase_model: base\n"
        "parameters: {weight: 0.5, density: 0.5, epsilon: 0.1}\n"
    ),
    "arcee_fusion": "models: [{model: expert1}]\nmerge_method: arcee_fusion\nbase_model: base\n",
}
# mergekit has no such methods.
OURS = {
    "pcb_merging": (
        "models: [{model: expert1}, {model: expert2}]\nmerge_method: pcb_merging\nbase_model: base\n"
        "parameters: {weight: 1}\n"
    ),
}
DEFAULT = ("linear", "task_arithmetic", "slerp", "nuslerp", "dare_ties", "ties", "passthrough")


@dataclass(frozen=True)
class Run:
    """One measured process: seconds of wall and processor time, and most anonymous memory in bytes."""

    wall: float
    cpu: float
    memory: int


def write_models(work: Path, gigabytes: float, sizes: Sizes) -> None:
    """Write the base and its experts, unless they are there; a tiny one has one layer."""
    hidden, inner, vocabulary = sizes.hidden, sizes.inner, sizes.vocabulary
    block = 2 * (2 * hidden * hidden + 2 * hidden * hidden // 4 + 3 * hidden * inner)
    layers = max(1, round((gigabytes * 1e9 - 4 * vocabulary * hidden) / block))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": vocabulary, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        for name, shape in {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden // 4, hidden),
            "self_attn.v_proj": (hidden // 4, hidden), "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }.items():  # fmt: skip
            shapes[f"{start}{name}.weight"] = shape
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    for number, name in enumerate(["base", *(f"expert{i}" for i in range(1, EXPERTS + 1))]):
        if (work / name).exists():
            continue
        layout = plan_layout([StoredTensor(tensor, "BF16", shape) for tensor, shape in shapes.items()])
        with FolderWriter(work / name, layout) as writer:
            for i, (tensor, shape) in enumerate(shapes.items()):
                writer.write(tensor, _drawn(shape, i, number))
            writer.add_file("config.json", json.dumps(config).encode())
            writer.finish()


def _drawn(shape: tuple[int, ...], tensor: int, model: int) -> np.ndarray:
    """Normal weights; an expert's differ from the base's in one entry of ten."""
    base = np.random.default_rng([tensor, 0]).standard_normal(shape, np.float32) * np.float32(0.02)
    if model:
        draw = np.random.default_rng([tensor, model])
        places = draw.integers(0, base.size, base.size // 10)
        base.reshape(-1)[places] += draw.standard_normal(places.size, np.float32) * np.float32(0.002)
    return base.astype(ml_dtypes.bfloat16)


def measure(command: Sequence[str], work: Path, out: Path) -> Run:
    """Run a command that makes a folder, in a process of its own, and watch its anonymous memory."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name(f".{out.name}.partial"), ignore_errors=True)
    before = os.times()
    begin = time.perf_counter()
    # Without this a shell that forbids bytecode would have every run compile the modules of a package from source.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    most = 0
    while process.poll() is None:
        most = max(most, anonymous(process.pid))
        time.sleep(0.01)
    wall = time.perf_counter() - begin
    after = os.times()
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr.read().decode()[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(wall, cpu, most)


def anonymous(pid: int) -> int:
    """Return the anonymous memory of a process in bytes; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon")), 0)
    except (OSError, ValueError):
        return 0


def floor(work: Path, out: Path, threads: int) -> Run:
    """Average two models with a plain loop in C, from memory maps into a file, from some threads."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "floor.c", Path(folder) / "floor.so"
        source.write_text(_FLOOR)
        subprocess.run(
            ["gcc", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)], check=True
        )
        return measure([sys.executable, __file__, "--floor", str(library), str(out), str(threads)], work, out)


def run_floor(library: str, out: str, threads: int) -> None:
    """What the process of `floor` does."""
    average: Callable[..., None] = ctypes.CDLL(library).average
    first, second = (np.memmap(f"{name}/model.safetensors", np.uint16, "r") for name in ("expert1", "expert2"))
    Path(out).mkdir()
    target = os.open(f"{out}/model.safetensors", os.O_RDWR | os.O_CREAT)
    os.ftruncate(target, first.nbytes)
    step = 1 << 20
    places = iter(range(0, first.size, step))
    lock = threading.Lock()

    def work() -> None:
        made = np.empty(step, np.uint16)
        while True:
            with lock:
                start = next(places, None)
            if start is None:
                return
            a, b = first[start : start + step], second[start : start + step]
            average(*(ctypes.c_void_p(x.ctypes.data) for x in (a, b, made)), ctypes.c_size_t(a.size))
            os.pwrite(target, made[: a.size].data, 2 * start)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def main() -> None:
    """Measure what is asked and print a table."""
    if sys.argv[1:2] == ["--floor"]:
        run_floor(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--methods", default=",".join(DEFAULT), help=f"of {', '.join([*RECIPES, *OURS])}")
    parser.add_argument("--mergekit", help="path of mergekit-yaml")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    work, tiny = arguments.work / f"{arguments.gigabytes:g}GB", arguments.work / "tiny"
    for folder, size, sizes in ((work, arguments.gigabytes, Sizes()), (tiny, 0.0, TINY)):
        folder.mkdir(parents=True, exist_ok=True)
        write_models(folder, size, sizes)
    out = work / "out"
    steelyard = str(Path(sys.executable).parent / "steelyard")
    threads = len(os.sched_getaffinity(0))
    rows = [("floor in C", "linear", partial(floor, work, out, threads))]
    jobs = [("start", "linear", tiny), *((method, method, work) for method in arguments.methods.split(","))]
    for shown, method, folder in jobs:
        recipe = folder / f"{method}.yml"
        recipe.write_text({**RECIPES, **OURS}[method] + "dtype: bfloat16\n")
        ours = [steelyard, "merge", str(recipe), str(out)]
        rows.append(("steelyard", shown, partial(measure, ours, folder, out)))
        if arguments.mergekit and method in RECIPES:
            theirs = [arguments.mergekit, str(recipe), str(out), "--quiet", "--no-write-model-card"]
            rows.append(("mergekit", shown, partial(measure, theirs, folder, out)))
    print(f"{'':10}  {'method':16} {'wall s':>7} {'cpu s':>7} {'anonymous MB':>13}")
    for who, method, run in rows:
        runs = [run() for _ in range(arguments.repeats)]
        best = min(runs, key=lambda run: run.wall)
        print(f"{who:10}  {method:16} {best.wall:7.2f} {best.cpu:7.2f} {best.memory / 1e6:13.0f}", flush=True)
    shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
