"""`fit` at every effort, with and without entropy-coded integers: KL at equal bytes, and seconds.

    python benchmarks/efforts.py [MODEL] [--widths 1.5 2 2.5 3 4] [--efforts quick good best]
        [--calibration FILE] [--eval-sequences 24]

In Steelyard's own format. Which codecs lie on the convex hulls of the curves is counted too: what lies on none is
never bought. Seconds are those of the processor, of trying all candidates.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from _setup import measured, parser_of, source_of

from steelyard import formats
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.options import FitOptions
from steelyard.budget.planning import Planner
from steelyard.errors import UserError
from steelyard.measure import Evaluator


def main() -> None:
    """Print a table."""
    parser = parser_of(__doc__)
    parser.add_argument("model", nargs="?", default="reference")
    parser.add_argument("--widths", type=float, nargs="+", default=[1.5, 2, 2.5, 3, 4])
    parser.add_argument("--efforts", nargs="+", default=["quick", "good", "best"])
    parser.add_argument("--calibration")
    parser.add_argument("--eval-sequences", type=int, default=24)
    given = parser.parse_args()
    native = formats.get("steelyard")
    kept = Path(given.calibration).resolve() if given.calibration else "base.safetensors"
    with (
        measured(given.model, 128, given.eval_sequences, window=256) as setup,
        setup.calibrate(kept=kept) as known,
    ):
        knowledge = setup.knowledge(known)
        for effort in given.efforts:
            for entropy in (True, False):
                options = FitOptions(bits=4, format="steelyard", effort=effort, entropy=entropy)
                planner = Planner(setup.opened, native, options)
                begun = time.process_time()
                planner.learn(knowledge, {})
                title = f"{effort}, {'grids' if entropy else 'integers'}"
                print(f"{title}: {time.process_time() - begun:.0f} s; on hulls: {_hulls(planner)}")
                for width in given.widths:
                    found = _measured(planner, width, setup.evaluator, knowledge)
                    print(f"{title}, {width:g} bits: {found}", flush=True)


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
