"""Jobs that look for a merge: each ends in a recipe for `steelyard merge`, and in what was measured on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.edits.merge.atlas import AtlasOptions, learn
from steelyard.edits.merge.candidates import Candidates
from steelyard.edits.merge.dialect import ModelReference
from steelyard.edits.merge.inputs import StoredModel
from steelyard.edits.merge.objective import Objective
from steelyard.edits.merge.search.run import SearchOptions, SearchResult, search
from steelyard.edits.merge.search.space import Range, Space
from steelyard.edits.merge.soups import Soup, barriers, greedy
from steelyard.edits.merge.zoo import Strategy, Zoo, cluster, mixture, strategy
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.yaml_document import parse_documents, read_text

if TYPE_CHECKING:
    from steelyard.measure.evaluate import EvaluationOptions
    from steelyard.measure.texts import Corpus


@dataclass(frozen=True)
class Found:
    """What a job found, and how it does on text that did not decide.

    Attributes:
        recipe: as plain data.
        before: losses by task on the other half of the text, of where the search began.
        after: of what was found.
        details: what the job itself reports, as plain data.
    """

    recipe: Mapping[str, Any]
    before: Mapping[str, float]
    after: Mapping[str, float]
    details: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "recipe": dict(self.recipe),
            "before": dict(self.before),
            "after": dict(self.after),
            **self.details,
        }


def search_recipe(
    recipe: Path,
    ranges: Sequence[str],
    texts: Mapping[str, Corpus],
    options: SearchOptions | None = None,
    evaluation: EvaluationOptions | None = None,
    *,
    journal: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> tuple[Found, SearchResult]:
    """Search a recipe's numbers; one half of every task's text decides, the other says how good the result is.

    Args:
        recipe: a file with one recipe.
        ranges: what is searched, as `Range.parse` reads it.
        texts: by task.
        options: of the search.
        evaluation: how much is measured.
        journal: keeps every measurement as soon as it is made.
        resume: go on from the journal.
        progress: advanced by measurements.

    Raises:
        UserError: for a recipe that cannot be carried out, or text that cannot be measured on.
    """
    data = read_recipe(recipe)
    space = Space(data, dict(Range.parse(item) for item in ranges))
    options = options or SearchOptions()
    with Candidates(options.seed) as candidates:
        plan = candidates.plan(data)
        chosen, held_out = _halves(_model_of(data), texts, evaluation)
        found = search(
            space,
            lambda made: chosen.losses(candidates.source(made)),
            options,
            journal=journal,
            identity=json.dumps([plan.identities, chosen.identity()]),
            resume=resume,
            progress=progress,
        )
        before, after = (
            held_out.losses(candidates.source(made))
            for made in (space.recipe(found.evaluations[0].point), found.recipe)
        )
    return Found(found.recipe, before, after, found.to_dict()), found


def make_soup(
    models: Sequence[str], texts: Mapping[str, Corpus], evaluation: EvaluationOptions | None = None
) -> tuple[Soup, dict[tuple[str, str], float]]:
    """Return the greedy soup of models, and the barriers between every two of them.

    Raises:
        UserError: for models that do not fit each other, or text that cannot be measured on.
    """
    judge = Objective(models[0], texts, evaluation)
    known: dict[str, Mapping[str, float]] = {}
    with Candidates() as candidates:

        def measure(recipe: Mapping[str, Any]) -> Mapping[str, float]:
            key = json.dumps(recipe)
            if key not in known:
                known[key] = judge.losses(candidates.source(recipe))
            return known[key]

        return greedy(models, measure), barriers(models, measure)


def learn_coefficients(
    base: str,
    experts: Sequence[str],
    texts: Mapping[str, Corpus],
    options: AtlasOptions | None = None,
    evaluation: EvaluationOptions | None = None,
    progress: Progress = SILENT,
) -> Found:
    """Learn a coefficient for every tensor of every expert on one half of the text; measure on the other.

    Raises:
        UserError: for experts that do not fit the base, or text that cannot be measured on.
    """
    from steelyard.jobs import resolve
    from steelyard.measure.model import open_model

    options = options or AtlasOptions()
    chosen, held_out = _halves(base, texts, evaluation)
    with ExitStack() as stack:
        opened = []
        for location in (base, *experts):
            opened.append(StoredModel.open(location))
            stack.callback(opened[-1].close)
        progress.start("learning coefficients", options.steps, "steps")
        learned = learn(
            opened[0],
            dict(zip(experts, opened[1:], strict=True)),
            open_model(resolve(base)),
            chosen.data,
            options,
            lambda step, loss: progress.advance(1),
        )
        progress.finish()
    start = {**learned.recipe(), "models": _with_weight(experts, options.start)}
    with Candidates() as candidates:
        before, after = (held_out.losses(candidates.source(made)) for made in (start, learned.recipe()))
    details = {"coefficients": learned.count, "losses": list(learned.losses)}
    return Found(learned.recipe(), before, after, details)


def sort_zoo(
    models: Sequence[str],
    threshold: float,
    texts: Mapping[str, Corpus],
    evaluation: EvaluationOptions | None = None,
) -> tuple[Zoo, list[Strategy]]:
    """Return models in clusters that can be merged, and how each cluster is, by the text if there is any.

    Raises:
        UserError: for models that cannot be read, or text that cannot be measured on.
    """
    with Candidates() as candidates:
        zoo = cluster({name: candidates.model(ModelReference.parse(name)) for name in models}, threshold)
        strategies = []
        for found in zoo.clusters:
            measure = None
            if texts and len(found.models) > 1:
                judge = Objective(found.models[0], texts, evaluation)

                def measure(recipe: Mapping[str, Any], judge: Objective = judge) -> Mapping[str, float]:
                    return judge.losses(candidates.source(recipe))

            strategies.append(strategy(found, measure))
    return zoo, strategies


def write_zoo(zoo: Zoo, strategies: Sequence[Strategy], out: Path) -> list[Path]:
    """Write a recipe of each cluster of several models and, if there are more clusters, of their mixture.

    Returns:
        The files; the mixture's names the folders that the others are merged into, `cluster-1` and so on beside it.
    """
    if out.exists():
        raise UserError(f"{out} already exists; choose another --out or remove it")
    out.mkdir(parents=True)
    written, places = [], []
    for number, (found, chosen) in enumerate(zip(zoo.clusters, strategies, strict=True), 1):
        if len(found.models) == 1:
            places.append(found.models[0])
            continue
        places.append(str(out / f"cluster-{number}"))
        written.append(out / f"cluster-{number}.yaml")
        write_recipe(chosen.recipe, written[-1])
    if len(places) > 1:
        written.append(out / "mixture.yaml")
        write_recipe(mixture(places), written[-1])
    return written


def read_recipe(path: Path) -> dict[str, Any]:
    """Return a file's one recipe as plain data.

    Raises:
        UserError: if it holds none, or several.
    """
    documents = [found.data for found in parse_documents(read_text(path), path) if found.data is not None]
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise UserError(f"{path}: one recipe is searched at a time; this file holds {len(documents)}")
    return dict(documents[0])


def write_recipe(recipe: Mapping[str, Any], path: Path) -> None:
    """Write a recipe as YAML."""
    import yaml

    path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))


def _halves(
    model: str, texts: Mapping[str, Corpus], evaluation: EvaluationOptions | None
) -> tuple[Objective, Objective]:
    split = {task: text.split(0.5) for task, text in texts.items()}
    first, second = ({task: halves[side] for task, halves in split.items()} for side in (0, 1))
    return Objective(model, first, evaluation), Objective(model, second, evaluation)


def _model_of(recipe: Mapping[str, Any]) -> str:
    """Return the location of a model of the recipe."""
    named = recipe.get("base_model") or recipe.get("models", [{}])[0].get("model")
    if named is None:
        named = recipe["slices"][0]["sources"][0]["model"]
    return ModelReference.parse(named).location


def _with_weight(experts: Sequence[str], weight: float) -> list[dict[str, Any]]:
    return [{"model": expert, "parameters": {"weight": weight}} for expert in experts]
