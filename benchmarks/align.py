"""Two models from different seeds: what lies between them before and after alignment, and what fusion gives.

    python benchmarks/align.py FIRST SECOND [--work DIR] [--sequences 48] [--points 5] [--data TEXT]

Prints the losses of both; for every way of matching the loss half-way, the barrier, the distance of the weights and
the agreement of dominant singular directions; then the loss of every fusion, on the same text.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from steelyard.edits.align.barrier import Barrier, BarrierOptions, measure_barrier
from steelyard.edits.align.fuse import fuse_folder
from steelyard.edits.align.job import align_folder
from steelyard.edits.align.options import AlignOptions, FuseOptions
from steelyard.measure.defaults import default_corpora
from steelyard.measure.evaluate import EvaluationOptions, evaluate
from steelyard.measure.model import open_model
from steelyard.measure.texts import load_documents

WAYS: dict[str, AlignOptions] = {
    "weights": AlignOptions(),
    "activations, correlation": AlignOptions(method="activations"),
    "activations, products": AlignOptions(method="activations", correlate=False),
    "straight-through": AlignOptions(method="straight-through", steps=40, sequences=32),
}
FUSIONS: dict[str, FuseOptions] = {
    "otfusion, weights": FuseOptions(),
    "otfusion, weights, 5 sweeps": FuseOptions(sweeps=5),
    "otfusion, activations": FuseOptions(match="activations"),
    "otfusion, activations, entropic 0.02": FuseOptions(match="activations", regularization=0.02),
    "pleas 1.0, means": FuseOptions(method="pleas", match="activations", fit=False),
    "pleas 1.0": FuseOptions(method="pleas", match="activations"),
    "pleas 1.0, by weights": FuseOptions(method="pleas"),
    "pleas 1.5, means": FuseOptions(method="pleas", match="activations", width=1.5, fit=False),
    "pleas 1.5": FuseOptions(method="pleas", match="activations", width=1.5),
    "pleas 2.0, means": FuseOptions(method="pleas", match="activations", width=2.0, fit=False),
    "pleas 2.0": FuseOptions(method="pleas", match="activations", width=2.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sequences", type=int, default=48)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--data")
    parser.add_argument("--only", choices=["ways", "fusions"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        settings = BarrierOptions(points=given.points, sequences=given.sequences, data=given.data)
        found = measure_barrier([given.first, given.second], settings)
        ends = found.places[0].loss, found.places[-1].loss
        print(f"loss of {given.first}: {ends[0]:.4f}; of {given.second}: {ends[1]:.4f}; on {found.data}\n")
        print(
            "| second model matched by | loss half-way | barrier | distance of weights | dominant directions | s |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        for name, options in WAYS.items() if given.only != "fusions" else ():
            start = time.perf_counter()
            done = align_folder(given.second, given.first, work / name.replace(", ", "-"), options)
            seconds = time.perf_counter() - start
            if name == "weights":
                row(found, "nothing", done.before, done.directions[0].dominant, 0.0)
            barrier = measure_barrier([given.first, done.out], settings)
            row(barrier, name, done.after, done.directions[1].dominant, seconds)
        print("\n| fused by | loss | parameters | s |\n| --- | --- | --- | --- |")
        texts = (
            default_corpora(open_model(given.first)).held_out if given.data is None else load_documents(given.data)
        )
        for name, fusion in FUSIONS.items() if given.only != "ways" else ():
            start = time.perf_counter()
            made = fuse_folder(given.first, given.second, work / f"fused-{name}".replace(", ", "-"), fusion)
            seconds = time.perf_counter() - start
            loss = evaluate(made.out, None, texts, EvaluationOptions(sequences=given.sequences)).loss
            assert loss is not None
            print(f"| {name} | {loss.value:.4f} | {made.parameters:,} | {seconds:.1f} |", flush=True)


def row(found: Barrier, name: str, distance: float, directions: float, seconds: float) -> None:
    middle = found.places[len(found.places) // 2]
    numbers = f"{middle.loss:.4f} | {found.height:.4f} | {distance:.2f} | {directions:.3f} | {seconds:.1f}"
    print(f"| {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
