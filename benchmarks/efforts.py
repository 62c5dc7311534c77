"""`fit` at every effort, with and without entropy-coded integers: KL at equal bytes, and seconds.

    python benchmarks/efforts.py [MODEL] [--widths 1.5 2 2.5 3 4] [--efforts quick good best]
        [--calibration FILE] [--eval-sequences 24]

In Steelyard's own format. Which codecs lie on the convex hulls of the curves is counted too: what lies on none is
never bought. Seconds are those of the processor, of trying all candidates.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from steelyard import formats
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import learn
from steelyard.budget.options import FitOptions
from steelyard.budget.planned import PlannedSource
from steelyard.budget.planning import Planner
from steelyard.errors import UserError
from steelyard.jobs import open_model
from steelyard.measure.evaluate import EvaluationOptions, Evaluator, held_out_windows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="reference")
    parser.add_argument("--widths", type=float, nargs="+", default=[1.5, 2, 2.5, 3, 4])
    parser.add_argument("--efforts", nargs="+", default=["quick", "good", "best"])
    parser.add_argument("--calibration")
    parser.add_argument("--eval-sequences", type=int, default=24)
    given = parser.parse_args()
    native = formats.get("steelyard")
    about = {"bits": 4, "format": "steelyard", "calibration": given.calibration}
    settings = EvaluationOptions(sequences=given.eval_sequences, sequence_length=256)
    with open_model(given.model) as opened, tempfile.TemporaryDirectory() as work:
        learned = learn(opened, FitOptions(**about, eval_sequences=given.eval_sequences), Path(work))
        assert learned.model is not None and learned.held_out is not None
        knowledge = KnowledgeBase(learned.calibration, opened.spec.ties)
        data = held_out_windows(learned.model, learned.held_out, settings)
        with Evaluator(learned.model, data, settings) as evaluator:
            for effort in given.efforts:
                for entropy in (True, False):
                    planner = Planner(opened, native, FitOptions(**about, effort=effort, entropy=entropy))
                    begun = time.process_time()
                    planner.learn(knowledge, {})
                    title = f"{effort}, {'grids' if entropy else 'integers'}"
                    print(f"{title}: {time.process_time() - begun:.0f} s; on hulls: {_hulls(planner)}")
                    for width in given.widths:
                        print(
                            f"{title}, {width:g} bits: {_measured(planner, width, evaluator, knowledge)}",
                            flush=True,
                        )
        learned.close()


def _hulls(planner: Planner) -> str:
    found = Counter(curve.points[index].label for curve in planner.curves for index in curve.hull())
    return ", ".join(f"{label} x {count}" for label, count in found.most_common())


def _measured(planner: Planner, width: float, evaluator: Evaluator, knowledge: KnowledgeBase) -> str:
    opened = planner.opened
    try:
        planned = planner.plan(int(width * opened.spec.parameter_count() / 8), {})
    except UserError:
        return "no room"
    result = evaluator.measure(PlannedSource(planned.plan, opened, planner.format, knowledge))
    assert result.damage is not None
    return (
        f"{planned.solution.nbytes:,} bytes, predicted {planned.solution.damage:.4f}, "
        f"measured {result.damage.value:.4f} [{result.damage.low:.4f}, {result.damage.high:.4f}]"
    )


if __name__ == "__main__":
    main()
