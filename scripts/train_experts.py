"""Fine-tune the reference model into experts, one for each topic, or train a pair of small models from two seeds.

Usage: python scripts/train_experts.py OUT [TOPIC …]
       python scripts/train_experts.py OUT --seeds
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from steelyard import reference
from steelyard.reference.fine_tune import fine_tune
from steelyard.reference.options import TrainOptions
from steelyard.reference.topics import TOPICS, texts
from steelyard.reference.train import Run, Step, export

SEEDS = {"a": 0, "b": 1}


def main(arguments: list[str]) -> None:
    """Train what is asked for, one after the other; finished folders are left alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder that gets one folder for each model")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"of {', '.join(TOPICS)}; all if none is named")
    parser.add_argument("--seeds", action="store_true", help="train two small models from different seeds instead")
    parser.add_argument("--steps", type=int, help="optimizer steps (120; of a seed 400)")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    for name in SEEDS if given.seeds else (given.topics or list(TOPICS)):
        if not (given.out / name / "training.json").exists():
            print(f"{name}: {time.strftime('%H:%M:%S')}", file=sys.stderr, flush=True)
            (_seed if given.seeds else _expert)(name, given)


def _expert(topic: str, given: argparse.Namespace) -> None:
    steps = given.steps or 120
    options = TrainOptions(
        steps=steps,
        decay_steps=steps * 3 // 5,
        warmup_steps=min(10, steps),
        batch=2,
        sequence=512,
        decay_stretch=1,
        matrix_rate=0.003,
        other_rate=0.001,
        save_every=30,
        threads=given.threads,
    )
    train = [file.text for file in texts(topic, "train")]
    fine_tune(reference.path(), train, given.out / ".runs" / topic, given.out / topic, options, _say(steps))


def _seed(name: str, given: argparse.Namespace) -> None:
    steps = given.steps or 400
    options = TrainOptions(
        steps=steps,
        decay_steps=steps * 3 // 10,
        batch=8,
        decay_stretch=1,
        seed=SEEDS[name],
        vocabulary=1024,
        hidden=128,
        ffn=384,
        layers=3,
        heads=4,
        kv_heads=2,
        save_every=50,
        threads=given.threads,
    )
    folder = given.out / ".runs" / name
    Run(folder, options, resume=folder.exists()).train(_say(steps))
    export(folder, given.out / name, options)


def _say(steps: int) -> Callable[[Step], None]:
    def report(step: Step) -> None:
        if step.number % 10 == 0 or step.number == steps:
            line = f"step {step.number} of {steps}  loss {step.loss:.4f}  {step.seconds:.1f} s a step"
            print(line, file=sys.stderr, flush=True)

    return report


if __name__ == "__main__":
    main(sys.argv[1:])
