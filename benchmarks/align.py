"""Two models from different seeds: what lies between them before and after alignment, and what fusion gives.

    python benchmarks/align.py FIRST SECOND [--wide THIRD] [--work DIR] [--sequences 48] [--points 5] [--data TEXT]

Prints the losses of both; for every way of matching the loss half-way, the barrier, the distance of the weights and
the agreement of dominant singular directions; then, on the same text, the loss of the ensemble (the mean of both
models' probabilities) and of every fusion; with --wide also of fusions with a model of wider feed-forwards.
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
from steelyard.measure.evaluate import EvaluationOptions, evaluate, held_out_windows
from steelyard.measure.model import open_model
from steelyard.measure.texts import load_documents
from steelyard.measure.windows import IGNORED, TokenSet

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
    "pleas 2.0, heads too": FuseOptions(method="pleas", match="activations", width=2.0, heads=True),
    "pleas 2.0, means": FuseOptions(method="pleas", match="activations", width=2.0, fit=False),
    "pleas 2.0": FuseOptions(method="pleas", match="activations", width=2.0),
}
WIDE: dict[str, FuseOptions] = {
    "otfusion, weights": FuseOptions(),
    "otfusion, activations": FuseOptions(match="activations"),
    "the wide one alone in the narrow shape": FuseOptions(match="activations", share=1.0),
    "the same, read by the mean": FuseOptions(match="activations", share=1.0, reads="mean"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sequences", type=int, default=48)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--data")
    parser.add_argument("--wide")
    parser.add_argument("--only", choices=["ways", "fusions", "wide"])
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
        for name, options in WAYS.items() if given.only in (None, "ways") else ():
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
        length = EvaluationOptions(sequences=given.sequences)
        data = held_out_windows(open_model(given.first), texts, length)
        if given.only in (None, "fusions"):
            print(f"| ensemble of both | {ensemble([given.first, given.second], data):.4f} | | |")
        jobs = [(name, given.second, fusion) for name, fusion in FUSIONS.items() if given.only in (None, "fusions")]
        if given.wide and given.only in (None, "wide"):
            jobs += [(f"wide: {name}", given.wide, fusion) for name, fusion in WIDE.items()]
        for name, other, fusion in jobs:
            start = time.perf_counter()
            made = fuse_folder(given.first, other, work / f"fused-{name}".replace(", ", "-"), fusion)
            seconds = time.perf_counter() - start
            loss = evaluate(made.out, None, texts, length).loss
            assert loss is not None
            print(f"| {name} | {loss.value:.4f} | {made.parameters:,} | {seconds:.1f} |", flush=True)


def ensemble(folders: list[str], data: TokenSet) -> float:
    """Loss of the mean of the models' probabilities."""
    import torch
    from transformers import AutoModelForCausalLM

    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]
    total, count = 0.0, 0
    for window in data.windows:
        inputs, labels = torch.from_numpy(window.inputs)[None], torch.from_numpy(window.labels)
        with torch.no_grad():
            mean = torch.stack([model(inputs).logits[0].softmax(-1) for model in models]).mean(0)
        scored = labels != IGNORED
        total -= float(mean[scored].gather(1, labels[scored, None]).log().sum())
        count += int(scored.sum())
    return total / count


def row(found: Barrier, name: str, distance: float, directions: float, seconds: float) -> None:
    middle = found.places[len(found.places) // 2]
    numbers = f"{middle.loss:.4f} | {found.height:.4f} | {distance:.2f} | {directions:.3f} | {seconds:.1f}"
    print(f"| {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
