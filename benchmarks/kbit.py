"""Which width is best for a given number of model bits? Loss against total bits over a ladder of trained sizes.

    python benchmarks/kbit.py FOLDER [--train] [--bits 2 3 4 5 6 8 16] [--rounding rtn gptq] [--out FOLDER]

FOLDER holds one trained model a size (`--train` trains what is missing; hours on two cores). Every matrix of every
size is rounded at every width, embeddings too, in groups of 64; loss is measured on the same held-out sources. For
each width the losses of the sizes make a curve over the bits of all stored tensors; at every total that several
widths reach, the curves are read between their points (straight lines over the logarithm) and the lowest wins.
Documents are drawn anew 1,000 times to say how sure that is. After Dettmers & Zettlemoyer 2023, arXiv 2212.09720.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _setup import SHARD, decoded, keep, measured, parser_of, source_of

from steelyard.budget.encoding import rounding_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, TensorPlan
from steelyard.codecs import Codec, DenseCodec, IntegerCodec
from steelyard.jobs import OpenModel
from steelyard.measure.estimates import resamples
from steelyard.measure.model import Overlay

RESAMPLES = 1000
TOTALS = 9
# All sizes see the same two million tokens: the law asks what is best for a given amount of training.
STEPS = 500


@dataclass(frozen=True)
class Size:
    """One rung: the shape of a small Llama and how long it is trained."""

    name: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int

    def train(self, folder: Path) -> None:
        """Train it into `folder`."""
        steelyard = str(Path(sys.executable).with_name("steelyard"))
        run = folder.with_name(f".{folder.name}-run")
        words = [steelyard, "train-reference", str(run), "--export", str(folder), "--vocabulary", "1024"]
        words += ["--hidden", str(self.hidden), "--ffn", str(self.ffn), "--layers", str(self.layers)]
        words += ["--heads", str(self.heads), "--kv-heads", str(self.kv_heads)]
        words += ["--steps", str(STEPS), "--decay-steps", str(STEPS * 3 // 10), "--warmup-steps", "40"]
        words += ["--decay-stretch", "1", "--threads", "1"]
        words += ["--resume"] if run.exists() else []
        subprocess.run(words, check=True)


LADDER = (
    Size("0.14M", 64, 128, 2, 2, 1),
    Size("0.26M", 64, 192, 4, 2, 1),
    Size("0.72M", 128, 384, 3, 4, 2),
    Size("1.5M", 192, 576, 3, 6, 3),
    Size("3.4M", 256, 768, 4, 8, 4),
)


@dataclass(frozen=True)
class Point:
    """One size at one width: stored bits, and the summed loss and tokens of each document."""

    size: str
    parameters: int
    bits: int
    rounding: str
    total_bits: int
    loss: np.ndarray
    tokens: np.ndarray

    @property
    def value(self) -> float:
        """Mean loss in nats per token."""
        return float(self.loss.sum() / self.tokens.sum())


def codec_of(bits: int, columns: int) -> Codec:
    """Integers in groups of 64, with a zero point where there are few."""
    return IntegerCodec(bits, 64 if columns > 64 else None, bits > 3, "BF16")


def measure_size(folder: Path, widths: list[int], roundings: list[str], sequences: int) -> Iterator[Point]:
    """Yield every width of one model."""
    with measured(folder, sequences) as setup, setup.calibrate() as known:
        opened, knowledge = setup.opened, setup.knowledge(known)
        for bits in widths:
            for rounding in roundings if bits < 16 else roundings[:1]:
                nbytes, matrices = rounded(opened, bits, rounding, knowledge)
                found = setup.evaluator.measure(Overlay(setup.model.source, matrices)).per_document
                assert found is not None
                yield Point(
                    folder.name,
                    opened.spec.parameter_count(),
                    bits,
                    rounding if bits < 16 else "",
                    8 * nbytes,
                    np.asarray(found["loss"]),
                    np.asarray(found["tokens"]),
                )


def rounded(
    opened: OpenModel, bits: int, rounding: str, knowledge: KnowledgeBase
) -> tuple[int, dict[str, np.ndarray]]:
    """Return the bytes of all tensors with every matrix at one width, and the decoded matrices."""
    spec = opened.spec
    plans = {}
    for name, tensor in spec.tensors.items():
        codec = codec_of(bits, tensor.matrix_shape[1]) if bits < 16 and name in spec.quantizable() else None
        plans[name] = TensorPlan(name, codec, rounding_of(codec, rounding))
    codecs = {name: plan.codec or DenseCodec(spec.tensors[name].dtype) for name, plan in plans.items()}
    nbytes = sum(codec.nbytes(spec.tensors[name].shape) for name, codec in codecs.items())
    source = source_of(Plan("steelyard", plans, SHARD), opened, knowledge)
    return nbytes, decoded(source, [name for name, plan in plans.items() if plan.codec is not None])


def best_widths(points: list[Point]) -> Iterator[tuple[float, dict[int, float], dict[int, float]]]:
    """Yield total bits, the loss of each width that reaches them, and the share of resamples each width wins."""
    draws = resamples(len(points[0].tokens), RESAMPLES, 0)
    curves: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for bits in sorted({point.bits for point in points}):
        line = sorted((point for point in points if point.bits == bits), key=lambda point: point.total_bits)
        totals = np.log([point.total_bits for point in line])
        plain = np.array([[point.value, *(draws @ point.loss / (draws @ point.tokens))] for point in line])
        curves[bits] = totals, plain
    lowest = min(totals[0] for totals, _ in curves.values())
    highest = max(totals[-1] for totals, _ in curves.values())
    for total in np.linspace(lowest, highest, TOTALS + 2)[1:-1]:
        reached = {b: curve for b, curve in curves.items() if curve[0][0] <= total <= curve[0][-1]}
        if len(reached) < 2:
            continue
        losses = np.array([_between(total, *curve) for curve in reached.values()])
        winners = losses[:, 1:].argmin(0)
        shares = {b: float(np.mean(winners == i)) for i, b in enumerate(reached)}
        yield float(np.exp(total)), dict(zip(reached, losses[:, 0].tolist(), strict=True)), shares


def _between(at: float, totals: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Interpolate each column of `losses` [sizes, resamples] linearly over `totals` [sizes]."""
    upper = min(max(int(np.searchsorted(totals, at)), 1), len(totals) - 1)
    share = (at - totals[upper - 1]) / (totals[upper] - totals[upper - 1])
    found: np.ndarray = losses[upper - 1] * (1 - share) + losses[upper] * share
    return found


def show(points: list[Point], rounding: str, widths: list[int]) -> None:
    """Print the losses of every size and width, and the winner at each total."""
    chosen = [point for point in points if point.rounding in (rounding, "")]
    print(f"\n{rounding}: loss in nats per token\n{'size':>8}" + "".join(f"{f'{b} bits':>9}" for b in widths))
    for size in dict.fromkeys(point.size for point in chosen):
        losses = {point.bits: point.value for point in chosen if point.size == size}
        print(f"{size:>8}" + "".join(f"{losses[b]:9.4f}" for b in widths))
    print(f"\n{'Mbit':>8}" + "".join(f"{f'{b} bits':>9}" for b in widths) + "   best, and its share of resamples")
    for total, by_width, shares in best_widths(chosen):
        words = "".join(f"{by_width[b]:9.4f}" if b in by_width else f"{'-':>9}" for b in widths)
        likeliest = ", ".join(
            f"{b} bits {share:.0%}"
            for b, share in sorted(shares.items(), key=lambda item: -item[1])
            if share >= 0.05
        )
        print(f"{total / 1e6:8.2f}{words}   {likeliest}")


def main() -> None:
    """Train what is missing if asked, measure, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", action="store_true", help="train the sizes that are missing")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8, 16])
    parser.add_argument("--rounding", nargs="+", default=["rtn", "gptq"])
    parser.add_argument("--sequences", type=int, default=128, help="windows to calibrate and to measure on")
    parser.add_argument("--out", type=Path, help="folder for kbit.json")
    arguments = parser.parse_args()
    points: list[Point] = []
    for size in LADDER:
        folder = arguments.folder / size.name
        if arguments.train and not (folder / "config.json").exists():
            size.train(folder)
        if not (folder / "config.json").exists():
            print(f"{folder} is missing; --train trains it", file=sys.stderr)
            continue
        for point in measure_size(folder, arguments.bits, arguments.rounding, arguments.sequences):
            points.append(point)
            print(f"{point.size:>8} {point.bits:>3} {point.rounding:>5} {point.value:9.4f}", flush=True)
    for rounding in arguments.rounding:
        show(points, rounding, arguments.bits)
    rows = [
        {"size": p.size, "parameters": p.parameters, "bits": p.bits, "rounding": p.rounding}
        | {"total_bits": p.total_bits, "loss": p.value}
        for p in points
    ]
    keep(rows, arguments.out, "kbit.json")


if __name__ == "__main__":
    main()
