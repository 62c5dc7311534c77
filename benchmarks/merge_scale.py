"""What merging is worth: losses of merged experts on the tasks they were trained for, and on those they were not.

    python scripts/train_experts.py EXPERTS
    python benchmarks/merge_scale.py EXPERTS --part methods    # every method on all experts, beside the ensemble
    python benchmarks/merge_scale.py EXPERTS --part scale      # methods against the number of experts
    python benchmarks/merge_scale.py EXPERTS --part searched   # soups, search, learned coefficients, packed masks

Losses are nats per token on files that neither the base nor an expert was trained on. The gain of a task is
normalised: 0 is the base, 1 the task's own expert; tasks whose expert is no better than the base have none. Scales
are chosen on other files (the calibration split) than those reported.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steelyard import reference
from steelyard.edits.merge.candidates import Candidates
from steelyard.edits.merge.objective import Objective
from steelyard.measure.evaluate import EvaluationOptions
from steelyard.measure.texts import Corpus, Document
from steelyard.reference.corpus import Split
from steelyard.reference.topics import TOPICS, texts

BASE = str(reference.path())
SCALES = (0.3, 0.6, 1.0)
"""What is tried for the factor of a sum of task vectors."""

Row = tuple[str, dict[str, float], str]
"""A name, losses by task, and what was chosen."""


def recipes(experts: Sequence[str], scale: float) -> dict[str, dict[str, Any]]:
    """Return one recipe of every method that a factor scales; task vectors are added, not averaged."""

    def scaled(method: str, factor: str = "lambda", **per_model: Any) -> dict[str, Any]:
        models = [{"model": each, "parameters": {"weight": 1.0, **per_model}} for each in experts]
        options = {factor: scale} if factor == "scale" else {factor: scale, "normalize": False}
        return {"merge_method": method, "base_model": BASE, "models": models, "parameters": options}

    found = {
        "task_arithmetic": scaled("task_arithmetic"),
        "ties, density 0.2": scaled("ties", density=0.2),
        "ties, density 0.5": scaled("ties", density=0.5),
        "dare_linear, density 0.5": scaled("dare_linear", density=0.5),
        "dare_linear, density 0.1": scaled("dare_linear", density=0.1),
        "dare_ties, density 0.5": scaled("dare_ties", density=0.5),
        "breadcrumbs, density 0.9": scaled("breadcrumbs", density=0.9),
        "breadcrumbs_ties, density 0.9": scaled("breadcrumbs_ties", density=0.9),
        "della, density 0.5": scaled("della", density=0.5),
        "della_linear, density 0.5": scaled("della_linear", density=0.5),
        "consensus, 2 of them": scaled("consensus", "scale"),
    }
    return found


def unscaled(experts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return one recipe of every method that has no such factor."""

    def plain(method: str, base: bool = True, **options: Any) -> dict[str, Any]:
        models = [{"model": each} for each in experts]
        found: dict[str, Any] = {"merge_method": method, "models": models}
        return {**found, **({"base_model": BASE} if base else {}), **({"parameters": options} if options else {})}

    weighted = {"parameters": {"weight": 1.0}}
    multislerp = [{"model": each, **weighted} for each in experts]
    return {
        "linear": {"merge_method": "linear", "models": [{"model": each, **weighted} for each in experts]},
        "karcher": plain("karcher", base=False),
        "multislerp": {"merge_method": "multislerp", "base_model": BASE, "models": multislerp},
        "model_stock": plain("model_stock"),
        "sce, top 0.5": plain("sce", select_topk=0.5),
        "pcb_merging": {"merge_method": "pcb_merging", "base_model": BASE, "models": multislerp},
    }


def corpora(split: Split, tasks: Sequence[str]) -> dict[str, Corpus]:
    """Return the files of each task in a split."""
    return {
        task: Corpus(tuple(Document(file.name, file.text) for file in texts(task, split)), f"{task}, {split}")
        for task in tasks
    }


class Bench:
    """Base, experts, and the texts that choose and that report."""

    def __init__(self, folder: Path, windows: int) -> None:
        self.tasks = tuple(task for task in TOPICS if (folder / task / "model.safetensors").exists())
        self.experts = {task: str(folder / task) for task in self.tasks}
        options = EvaluationOptions(sequences=windows, sequence_length=256, batch_tokens=2048)
        self.report = Objective(BASE, corpora("held-out", self.tasks), options)
        fewer = EvaluationOptions(sequences=max(windows // 2, 1), sequence_length=256, batch_tokens=2048)
        self.choose = Objective(BASE, corpora("calibration", self.tasks), fewer)
        self.candidates = Candidates()
        self.base = self.report.losses(self.candidates.source(linear([BASE])))
        self.own = {
            task: self.report.losses(self.candidates.source(linear([place])))
            for task, place in self.experts.items()
        }

    def tokens(self) -> int:
        """Tokens that are reported on, of all tasks."""
        return sum(found.tokens for found in self.report.data.values())

    def gains(self, tasks: Sequence[str], losses: Mapping[str, float]) -> list[float]:
        """Return the normalised gain on each of the tasks that has an expert better than the base."""
        better = [task for task in tasks if self.own[task][task] < self.base[task]]
        return [(self.base[task] - losses[task]) / (self.base[task] - self.own[task][task]) for task in better]

    def losses(self, recipe: Mapping[str, Any], tasks: Sequence[str] | None = None) -> dict[str, float]:
        """Return what a recipe makes on the reported texts."""
        source = self.candidates.source(recipe)
        return {task: self.report.loss(task, source) for task in tasks or self.tasks}

    def best_scale(self, name: str, members: Sequence[str]) -> tuple[float, dict[str, Any]]:
        """Return the scale that does best on the members' tasks in the choosing texts, and its recipe."""
        places = [self.experts[task] for task in members]
        scores = {}
        for scale in SCALES:
            source = self.candidates.source(recipes(places, scale)[name])
            scores[scale] = sum(self.choose.loss(task, source) for task in members)
        chosen = min(scores, key=lambda scale: scores[scale])
        return chosen, recipes(places, chosen)[name]

    def ensemble(self) -> dict[str, float]:
        """Return the loss of the mean of the experts' probabilities: it costs as many models as there are."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        modules = [
            AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32).eval() for p in self.experts.values()
        ]
        found = {}
        with torch.no_grad():
            for task, data in self.report.data.items():
                total = count = 0.0
                for batch in data.batches(2048):
                    inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
                    each = torch.stack([module(input_ids=inputs).logits.log_softmax(-1) for module in modules])
                    mixed = each.logsumexp(0) - np.log(len(modules))
                    scored = labels >= 0
                    taken = mixed[scored].gather(1, labels[scored][:, None])
                    total, count = total - float(taken.double().sum()), count + int(scored.sum())
                found[task] = total / count
        return found


def linear(places: Sequence[str]) -> dict[str, Any]:
    """Return the recipe of an average."""
    return {
        "merge_method": "linear",
        "models": [{"model": place, "parameters": {"weight": 1.0}} for place in places],
    }


def methods(bench: Bench, only: str = "") -> Iterator[Row]:
    """Yield every method's losses on all experts, or those of which the name has something in it."""
    if only in "base":
        yield "base", bench.base, ""
    for task, losses in bench.own.items():
        if only in f"expert: {task}":
            yield f"expert: {task}", losses, ""
    if only in "ensemble of the experts":
        yield "ensemble of the experts", bench.ensemble(), f"{len(bench.tasks)} models"
    places = list(bench.experts.values())
    for name, recipe in unscaled(places).items():
        if only in name:
            yield name, bench.losses(recipe), ""
    for name in recipes(places, 1.0):
        if only in name:
            scale, recipe = bench.best_scale(name, bench.tasks)
            yield name, bench.losses(recipe), f"scale {scale:g}"


def scale(bench: Bench) -> Iterator[Row]:
    """Yield four methods over every choice of so many experts: mean gain on their tasks, and on the others."""
    names = ("linear", "task_arithmetic", "ties, density 0.2", "dare_linear, density 0.1")
    for count in range(1, len(bench.tasks) + 1):
        for name in names:
            inside, outside, merges = [], [], 0
            for members in itertools.combinations(bench.tasks, count):
                places = [bench.experts[task] for task in members]
                recipe = unscaled(places)[name] if name == "linear" else bench.best_scale(name, members)[1]
                losses, merges = bench.losses(recipe), merges + 1
                inside += bench.gains(members, losses)
                outside += [losses[task] - bench.base[task] for task in bench.tasks if task not in members]
            found = {"held-in, gain": float(np.mean(inside))} if inside else {}
            if outside:
                found["held-out, nats above the base"] = float(np.mean(outside))
            yield f"{count} experts, {name}", found, f"{merges} merges"


def searched(bench: Bench, evaluations: int, steps: int) -> Iterator[Row]:
    """Yield what looks at text: soup, search, learned coefficients, and each task's part of a packed store."""
    from steelyard.edits.merge.atlas import AtlasOptions, combined, learn
    from steelyard.edits.merge.inputs import StoredModel
    from steelyard.edits.merge.masks.build import Vectors
    from steelyard.edits.merge.search.run import SearchOptions, search
    from steelyard.edits.merge.search.space import Range, Space
    from steelyard.edits.merge.soups import greedy
    from steelyard.measure.model import open_model

    places = list(bench.experts.values())

    def judged(recipe: Mapping[str, Any]) -> dict[str, float]:
        return bench.choose.losses(bench.candidates.source(recipe))

    soup = greedy(places, judged)
    yield "greedy soup", bench.losses(soup.recipe()), f"{len(soup.weights)} of {len(places)} kept"
    for each in ("model", "tensor"):
        options = AtlasOptions(steps=steps, each=each, start=0.3)
        base = StoredModel.open(BASE)
        opened = {place: StoredModel.open(place) for place in places}
        found = learn(base, opened, open_model(BASE), bench.choose.data, options)
        source = combined(base, opened, found)
        losses = {task: bench.report.loss(task, source) for task in bench.tasks}
        yield f"learned, one coefficient a {each}", losses, f"{found.count} coefficients, {steps} steps"
    space = Space(recipes(places, 0.5)["task_arithmetic"], {"weight": Range(0, 2)})
    result = search(space, judged, SearchOptions(evaluations=evaluations))
    numbers = ", ".join(f"{value:.2f}" for value in result.values(result.best))
    yield "searched task_arithmetic", bench.losses(result.recipe), f"{evaluations} recipes; weights {numbers} × 0.5"
    vectors = Vectors(
        StoredModel.open(BASE), {t: StoredModel.open(p) for t, p in bench.experts.items()}, "bfloat16"
    )
    losses, chosen = {}, []
    for task in bench.tasks:
        scores = {value: bench.choose.loss(task, vectors.masked(task, value)) for value in (0.2, 0.4, 0.6)}
        best = min(scores, key=lambda value: scores[value])
        losses[task] = bench.report.loss(task, vectors.masked(task, best))
        chosen.append(f"{best:g}")
    entries = sum(int(np.prod(vectors.models.shape(name))) for name in vectors.names)
    stored = 2 * entries + len(bench.tasks) * entries / 8
    taken = f"lambda {', '.join(chosen)}; {stored / 1e6:.1f} MB for {2 * entries * len(places) / 1e6:.1f}"
    yield "TALL-masks, each task its own part", losses, taken


def main() -> None:
    """Print a table, and keep it as JSON beside the experts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experts", type=Path)
    parser.add_argument("--part", choices=("methods", "scale", "searched"), default="methods")
    parser.add_argument("--only", default="", help="methods: those of which the name has this in it")
    parser.add_argument("--windows", type=int, default=16, help="most windows of 256 tokens of each task")
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    bench = Bench(given.experts, given.windows)
    parts = {
        "methods": lambda: methods(bench, given.only),
        "scale": lambda: scale(bench),
        "searched": lambda: searched(bench, given.evaluations, given.steps),
    }
    print(f"{bench.tokens():,} tokens of {len(bench.tasks)} tasks\n")
    rows, columns = [], () if given.part == "scale" else bench.tasks
    if columns:
        print(f"| | {' | '.join(columns)} | mean | gain | |\n|---|{'---:|' * (len(columns) + 2)}---|")
    else:
        print("| | held-in, gain | held-out, nats above the base | |\n|---|---:|---:|---|")
    for name, losses, note in parts[given.part]():
        rows.append({"name": name, "losses": losses, "note": note})
        cells = [f"{losses[task]:.3f}" for task in columns] or [
            f"{losses[key]:.3f}" if key in losses else ""
            for key in ("held-in, gain", "held-out, nats above the base")
        ]
        if columns:
            gains = bench.gains(columns, losses)
            cells.append(f"{np.mean([losses[task] for task in columns]):.3f}")
            cells.append(f"{np.mean(gains):.2f}" if gains else "")
        print(f"| {name} | {' | '.join(cells)} | {note} |", flush=True)
    out = given.experts / f"merge-{given.part}.json"
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
