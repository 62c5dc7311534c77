"""Our rounding methods beside the programs they are named after, at equal settings on the same calibration.

    python benchmarks/originals.py [--model reference] [--bits 2 3 4] [--out FOLDER] [--only gptq awq hqq ...]

Every linear layer of the blocks at one width in symmetric groups of 64, embeddings and head untouched, as those
programs have it; HQQ with zero points, which it cannot do without. Prints for each pair the KL divergence to the
model as it was on the same held-out sources with 95 % intervals, and the seconds of rounding. The original's
include its own forward passes for calibration; ours do not, so those of our calibration are printed above. Results
of the originals are kept in FOLDER, which `benchmarks/fit.py` shares.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from _setup import SHARD, decoded, keep, parser_of, source_of
from fit import Bench, Peer, Row, locate, make_environment

from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, TensorPlan
from steelyard.budget.prepare import PrepareOptions, prepare_folder
from steelyard.codecs import IntegerCodec
from steelyard.jobs import OpenModel, open_model
from steelyard.measure.model import Overlay

GROUP = 64


def originals(bits: int) -> dict[str, Peer]:
    """The program behind each method."""
    words = (f"bits={bits}", f"group={GROUP}")
    return {
        "hqq": Peer(f"HQQ int{bits} g64", "half_quadratic.py", words),
        "gptq": Peer(f"llmcompressor GPTQ int{bits} g64", "llm_compressor.py", (*words, "method=gptq")),
        "awq": Peer(f"llmcompressor AWQ int{bits} g64", "llm_compressor.py", (*words, "method=awq")),
        "sign-gradient": Peer(f"auto-round int{bits} g64", "auto_round_run.py", words),
    }


def ours(bench: Bench, method: str, bits: int) -> Row:
    """The same layers by our method."""
    if method != "awq":
        return rounded(bench, bench.opened, method, method, bits, bench.knowledge)
    with tempfile.TemporaryDirectory() as work:
        options = PrepareOptions(
            method="awq",
            bits=bits,
            group_size=GROUP,
            dtype="float32",
            calibration=str(bench.out / f"{bench.name}-calibration.safetensors"),
            sequences=bench.options.sequences,
        )
        began = time.monotonic()
        prepare_folder(bench.opened.location, Path(work) / "prepared", options)
        seconds = time.monotonic() - began
        with open_model(str(Path(work) / "prepared")) as prepared:
            # As the original has it: nearest integers between the extremes.
            row = rounded(bench, prepared, method, "absmax", bits, KnowledgeBase(None), seconds)
    return row


def rounded(
    bench: Bench,
    opened: OpenModel,
    method: str,
    rounding: str,
    bits: int,
    knowledge: KnowledgeBase,
    before: float = 0.0,
) -> Row:
    """Round the linear layers of a model and measure it beside the model as it was."""
    spec = opened.spec
    scale = "F32" if any(tensor.dtype == "F32" for tensor in spec.tensors.values()) else "BF16"
    codec = IntegerCodec(bits, GROUP, method != "hqq", scale)
    wanted = [name for name in spec.quantizable() if spec.tensors[name].kind == "linear"]
    tensors = {n: TensorPlan(n, codec, rounding) if n in wanted else TensorPlan(n, None, "") for n in spec.tensors}
    source = source_of(Plan("steelyard", tensors, SHARD), opened, knowledge)
    source.tensor(wanted[0])  # compiled kernels are not what is timed
    began = time.monotonic()
    matrices = decoded(source, wanted)
    seconds = time.monotonic() - began + before
    others = {name: source.tensor(name) for name in source.names if name not in matrices}
    overlay = Overlay(bench.learned.model.source, {**others, **matrices})
    return bench.measure(f"ours, {method} int{bits}", overlay, 0, seconds=seconds)


def main() -> None:
    """Run every pair and print it."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--only", nargs="+", default=["hqq", "gptq", "awq", "sign-gradient"])
    parser.add_argument("--out", type=Path, help="keep the originals' results here and take them from here")
    arguments = parser.parse_args()
    make_environment()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="steelyard-originals-"))
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    folder = Path(arguments.model)
    location = str(folder.resolve()) if folder.is_dir() else locate(arguments.model)
    bench = Bench(folder.name, location, out, curves=False)
    tokens = bench.tokens()
    print(f"calibrated on {bench.learned.description}\nmeasured on {bench.data.description}")
    print(f"calibration and the base's own pass: {time.monotonic() - began:.1f} s (less where it was kept)\n")
    print(f"{'':34}{'KL':>9}  {'95 %':20}{'seconds':>9}")
    pairs = []
    for bits in arguments.bits:
        for method in arguments.only:
            rows = [row for row in (bench.peer(originals(bits)[method], tokens),) if row is not None]
            rows.append(ours(bench, method, bits))
            for row in rows:
                print(
                    f"{row.name:34}{row.damage:9.5f}  {f'[{row.low:.5f}, {row.high:.5f}]':20}{row.seconds:9.1f}",
                    flush=True,
                )
            if len(rows) == 2:
                print(f"{'ours / original':34}{rows[1].damage / rows[0].damage:9.2f}\n", flush=True)
            pairs += rows
    keep([asdict(row) for row in pairs], out, f"{bench.name}-originals.json")


if __name__ == "__main__":
    main()
