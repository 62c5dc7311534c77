"""Every rounding method and preparation at the same codec: python benchmarks/quantize.py [--quick] [--out FOLDER]

All matrices of the reference model, its table included, at 2, 3 and 4 bits in groups of 64 (zero points at 2 and
3), in Steelyard's format. Prints for each method the bytes on disk, the KL divergence to the original with its 95 %
interval, the loss on held-out sources, and wall and processor seconds of rounding (calibration and preparation not
counted). A prepared model is rounded to nearest and, again, by GPTQ, on statistics of its own; it is compared with
the model as it was. What is listed first is the baseline of what follows it. `--quick` calibrates and measures on
little text and leaves out what is slow; its figures say that the program works and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from _setup import SHARD, Setup, decoded, keep, measured, parser_of, source_of

from steelyard import formats
from steelyard.budget.encoding import ABSMAX, rounding_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, TensorPlan, plan_files
from steelyard.budget.prepare import PrepareOptions, prepare_folder
from steelyard.codecs import Codec, IntegerCodec, LowRankCodec, SumCodec
from steelyard.jobs import OpenModel, open_model
from steelyard.measure.calibration import Calibration
from steelyard.measure.model import Overlay

METHODS = (ABSMAX, "hqq", "rtn", "sign-gradient", "gptq", "decoupleq")
PREPARATIONS = ("equalize", "smooth", "awq", "rotate")
RANK = 8


@dataclass(frozen=True)
class Row:
    """One result."""

    name: str
    bits: int
    nbytes: int
    kl: float
    low: float
    high: float
    loss: float
    seconds: float
    processor: float


def codec_of(bits: int) -> IntegerCodec:
    """The codec all methods share at a width."""
    return IntegerCodec(bits, 64, bits > 3, "BF16")


def uniform(opened: OpenModel, codec: Codec, rounding: str) -> tuple[Plan, int]:
    """The plan of one codec for every matrix, and its bytes on disk."""
    spec, format = opened.spec, formats.get("steelyard")
    tensors = {}
    for name in spec.tensors:
        chosen = codec if name in spec.quantizable() and format.supports(spec, name, codec) else None
        if chosen is None and name in spec.quantizable():
            chosen = codec.base if isinstance(codec, SumCodec) else codec
        tensors[name] = TensorPlan(
            name, chosen, rounding_of(chosen, "gptq" if isinstance(codec, SumCodec) else rounding)
        )
    plan = Plan("steelyard", tensors, SHARD)
    return plan, plan_files(plan, spec, format).total_bytes


class Bench:
    """Rounds and measures; prints each row as it is known."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.rows: list[Row] = []

    def run(self, name: str, bits: int, opened: OpenModel, codec: Codec, rounding: str, known: Calibration) -> None:
        """Round a model one way, measure and print it."""
        plan, nbytes = uniform(opened, codec, rounding)
        source = source_of(plan, opened, KnowledgeBase(known, opened.spec.ties))
        wall, processor = time.perf_counter(), time.process_time()
        tensors = decoded(source, source.names)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        found = self.setup.evaluator.measure(Overlay(source, tensors))
        assert found.kl is not None and found.loss is not None
        row = Row(
            name, bits, nbytes, found.kl.value, found.kl.low, found.kl.high, found.loss.value, wall, processor
        )
        self.rows.append(row)
        print(
            f"{name:22s}{nbytes:>11,}{row.kl:>10.5f}  [{row.low:.5f}, {row.high:.5f}]{row.loss:>9.4f}"
            f"{wall:>9.1f}{processor:>9.1f}",
            flush=True,
        )


def main() -> None:
    """Run the comparison and print it."""
    parser = parser_of(__doc__)
    parser.add_argument("--quick", action="store_true", help="little text, no slow methods")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--model", default="reference")
    parser.add_argument("--out", type=Path, help="folder for quantize.json")
    arguments = parser.parse_args()
    with measured(arguments.model, 12 if arguments.quick else 128) as setup:
        bench = Bench(setup)
        compare(bench, arguments.bits, arguments.quick)
    keep([asdict(row) for row in bench.rows], arguments.out, "quantize.json")


def compare(bench: Bench, widths: list[int], quick: bool) -> None:
    """Run every method and preparation at every width."""
    setup, opened = bench.setup, bench.setup.opened
    methods = [name for name in METHODS if not (quick and name == "sign-gradient")]
    with setup.calibrate() as known:
        for bits in widths:
            codec = codec_of(bits)
            print(
                f"\n{codec.label}\n{'':22s}{'bytes':>11s}{'KL':>10s}{'':22s}{'loss':>9s}{'wall s':>9s}{'cpu s':>9s}"
            )
            for name in methods:
                bench.run(name, bits, opened, codec, name, known)
            low_rank = SumCodec(codec, LowRankCodec(RANK, codec.scale_dtype))
            bench.run(f"gptq + rank {RANK}", bits, opened, low_rank, "gptq", known)
            for name in PREPARATIONS:
                options = PrepareOptions(
                    method=name,
                    untie=name == "rotate",
                    bits=bits,
                    group_size=64,
                    symmetric=codec.symmetric,
                    dtype="float32",
                    calibration=str(setup.work / "base.safetensors"),
                    sequences=setup.settings.sequences,
                )
                folder = setup.work / f"{name}-{bits}"
                prepare_folder(opened.location, folder, options)
                with open_model(folder) as prepared, setup.calibrate(folder, f"{folder.name}.safetensors") as own:
                    for rounding in ("rtn", "gptq"):
                        bench.run(f"{name}, {rounding}", bits, prepared, codec, rounding, own)


if __name__ == "__main__":
    main()
