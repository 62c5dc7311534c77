"""Measure the reference model of a finished training run and write its card and figures beside its weights.

Usage: python scripts/reference_card.py RUN_FOLDER MODEL_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from steelyard.reference import card, checkpoint
from steelyard.reference.options import TrainOptions


def main(run_folder: Path, model_folder: Path) -> None:
    """Measure, write README.md and figures.json, print the card."""
    saved = checkpoint.describe(run_folder / checkpoint.LAST)
    options = TrainOptions(**saved.identity, **saved.schedule)
    figures = card.measure(run_folder, model_folder, options, lambda line: print(line, file=sys.stderr, flush=True))
    (model_folder / card.FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    text = card.render(figures)
    (model_folder / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
