"""`fit` at every effort beside the best single method and beside llama.cpp's mixes, at equal bytes, and seconds.

    python benchmarks/efforts.py [MODEL] [--widths 1.5 2 2.5 3 4] [--efforts quick good best]
        [--part hulls singles mixes] [--calibration FILE] [--sequences 128] [--eval-sequences 24] [--out FILE]

hulls: budgets of so many bits a stored parameter in Steelyard's format, with entropy coding and without, and
which codecs lie on the convex hulls of the curves; what lies on none is never bought. singles: one method for every
matrix, integers in groups of 64 (the best of GPTQ, decoupleQ and rounding to nearest at each width), and `fit`
at exactly its bytes. mixes: llama.cpp's mixes by rule, rounded by our own encoder on the same statistics, and `fit`
over GGUF's types at exactly the file's bytes. Seconds are those of the processor, of trying all candidates.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from _setup import SHARD, Setup, measured, parser_of, source_of

from steelyard import formats
from steelyard.budget.encoding import rounding_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.options import FitOptions
from steelyard.budget.plan import Plan, TensorPlan, plan_files
from steelyard.budget.planned import PlannedSource
from steelyard.budget.planning import Planner
from steelyard.budget.quantize import QuantizeOptions
from steelyard.budget.quantize_gguf import plan_gguf
from steelyard.codecs import IntegerCodec
from steelyard.errors import UserError
from steelyard.formats.container import bound
from steelyard.measure import Evaluator

SINGLES = ("gptq", "decoupleq", "rtn")
MIXES = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K")


@dataclass(frozen=True)
class Row:
    """One result; `beside` names the row whose bytes were the budget."""

    name: str
    beside: str
    nbytes: int
    damage: float
    low: float
    high: float


class Bench:
    """Measures, prints and keeps what it finds."""

    def __init__(self, setup: Setup, knowledge: KnowledgeBase, out: Path | None) -> None:
        self.setup, self.knowledge, self.out = setup, knowledge, out
        self.rows: list[Row] = []

    def add(self, name: str, beside: str, nbytes: int, source: PlannedSource) -> Row:
        """Measure a model and keep the row."""
        damage = self.setup.evaluator.measure(source).damage
        assert damage is not None
        row = Row(name, beside, nbytes, damage.value, damage.low, damage.high)
        self.rows.append(row)
        print(f"{name:28}{nbytes:>12,}  {row.damage:.5f} [{row.low:.5f}, {row.high:.5f}]", flush=True)
        if self.out is not None:
            self.out.write_text(json.dumps([asdict(row) for row in self.rows], indent=1) + "\n")
        return row

    def fits(self, planner: Planner, name: str, others: list[Row]) -> None:
        """Fit to the bytes of others."""
        for other in others:
            try:
                planned = planner.plan(other.nbytes, {})
            except UserError:
                print(f"{name:28}{other.nbytes:>12,}  no room", flush=True)
                continue
            source = PlannedSource(planned.plan, planner.opened, planner.format, self.knowledge)
            row = self.add(name, other.name, planned.solution.nbytes, source)
            print(f"{'':28}{'':>12}  {row.damage / other.damage:.2f} of {other.name}", flush=True)

    def singles(self) -> Iterator[Row]:
        """Yield the best of some methods at every width."""
        opened, format = self.setup.opened, formats.get("steelyard")
        for bits in (2, 3, 4):
            codec = IntegerCodec(bits, 64, bits > 3, "BF16")
            found = []
            for method in SINGLES:
                tensors = {}
                for name in opened.spec.tensors:
                    fits = name in opened.spec.quantizable() and format.supports(opened.spec, name, codec)
                    chosen = codec if fits else None
                    tensors[name] = TensorPlan(name, chosen, rounding_of(chosen, method))
                plan = Plan("steelyard", tensors, SHARD)
                nbytes = plan_files(plan, opened.spec, format).total_bytes
                found.append(self.add(f"{method} int{bits}", "", nbytes, source_of(plan, opened, self.knowledge)))
            yield min(found, key=lambda row: row.damage)

    def mixes(self) -> Iterator[Row]:
        """Yield llama.cpp's mixes."""
        opened = self.setup.opened
        format = bound(formats.get("gguf"), opened.checkpoint, opened.spec)
        for mix in MIXES:
            # `calibration` says that importances are known, which two of the rules ask.
            plan, _ = plan_gguf(opened, QuantizeOptions(format="gguf", mix=mix, calibration="known"))
            nbytes = plan_files(plan, opened.spec, format).total_bytes
            yield self.add(f"mix {mix}", "", nbytes, PlannedSource(plan, opened, format, self.knowledge))


def main() -> None:
    """Print what is asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("model", nargs="?", default="reference")
    parser.add_argument("--widths", type=float, nargs="+", default=[1.5, 2, 2.5, 3, 4])
    parser.add_argument("--efforts", nargs="+", default=["quick", "good", "best"])
    parser.add_argument(
        "--part", nargs="+", choices=["hulls", "singles", "mixes"], default=["hulls", "singles", "mixes"]
    )
    parser.add_argument("--calibration")
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--eval-sequences", type=int, default=24)
    parser.add_argument("--out", type=Path, help="file that keeps the rows of singles and mixes")
    given = parser.parse_args()
    native = formats.get("steelyard")
    kept = Path(given.calibration).resolve() if given.calibration else "base.safetensors"
    with (
        measured(given.model, given.sequences, given.eval_sequences, window=256) as setup,
        setup.calibrate(kept=kept) as known,
    ):
        knowledge = setup.knowledge(known)
        bench = Bench(setup, knowledge, given.out)
        singles = list(bench.singles()) if "singles" in given.part else []
        mixes = list(bench.mixes()) if "mixes" in given.part else []
        for effort in given.efforts:
            if mixes:
                options = FitOptions(bits=4, format="gguf", effort=effort)
                gguf = bound(formats.get("gguf"), setup.opened.checkpoint, setup.opened.spec)
                planner = Planner(setup.opened, gguf, options)
                learn(planner, knowledge, f"{effort}, gguf")
                bench.fits(planner, f"fit {effort}, gguf", mixes)
            for entropy in (True, False) if "hulls" in given.part else (True,) if singles else ():
                options = FitOptions(bits=4, format="steelyard", effort=effort, entropy=entropy)
                planner = Planner(setup.opened, native, options)
                title = f"{effort}, {'grids' if entropy else 'integers'}"
                learn(planner, knowledge, title)
                for width in given.widths if "hulls" in given.part else ():
                    found = _measured(planner, width, setup.evaluator, knowledge)
                    print(f"{title}, {width:g} bits: {found}", flush=True)
                bench.fits(planner, f"fit {title}", singles)


def learn(planner: Planner, knowledge: KnowledgeBase, title: str) -> None:
    """Work out the curves and print what it took."""
    begun = time.process_time()
    planner.learn(knowledge, {})
    print(f"{title}: {time.process_time() - begun:.0f} s; on hulls: {_hulls(planner)}", flush=True)


def _hulls(planner: Planner) -> str:
    found = Counter(curve.points[index].label for curve in planner.curves for index in curve.hull())
    return ", ".join(f"{label} x {count}" for label, count in found.most_common())


def _measured(planner: Planner, width: float, evaluator: Evaluator, knowledge: KnowledgeBase) -> str:
    opened = planner.opened
    try:
        planned = planner.plan(int(width * opened.spec.parameter_count() / 8), {})
    except UserError:
        return "no room"
    result = evaluator.measure(source_of(planned.plan, opened, knowledge))
    assert result.damage is not None
    return (
        f"{planned.solution.nbytes:,} bytes, predicted {planned.solution.damage:.4f}, "
        f"measured {result.damage.value:.4f} [{result.damage.low:.4f}, {result.damage.high:.4f}]"
    )


if __name__ == "__main__":
    main()
