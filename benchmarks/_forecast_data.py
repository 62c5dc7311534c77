"""Public tables of runs, as the papers' protocols read them; each folder keeps a README with its source."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast import laws
from steelyard.forecast.files import Cells, read_cells
from steelyard.forecast.law import Array
from steelyard.forecast.objective import Objective
from steelyard.forecast.rows import Rows, rows_of

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Case:
    """One fit that somebody published, or that we noted.

    Attributes:
        folder: of the data.
        label: which rows.
        rows: as the law reads them.
        objective: what is made small.
        reference: the least objective known for it before, and whose; None where none is known.
        fixed: constants that are held.
        starts: how many fits are begun.
    """

    folder: str
    label: str
    rows: Rows
    objective: Objective
    reference: tuple[float, str] | None = None
    fixed: dict[str, float] = field(default_factory=dict)
    starts: int = 64


class Table:
    """Columns of a file by name, as numbers."""

    def __init__(self, *path: str, root: Path = DATA) -> None:
        self.cells: Cells = read_cells(root.joinpath(*path))

    def __getitem__(self, name: str) -> Array:
        return np.array([float(cell) if cell else math.nan for cell in self.cells[name]])

    def words(self, name: str) -> Array:
        return np.array(self.cells[name])


def law_rows(name: str, measured: Array, **columns: Array) -> Rows:
    return rows_of(laws.get(name), columns, measured)


def chinchilla(drop: bool = True) -> tuple[Array, Array, Array]:
    """N, D and loss; without the five largest losses, as in the published refit."""
    table = Table("chinchilla_epoch", "svg_extracted_data.csv")
    n, c, loss = table["Model Size"], table["Training FLOP"], table["loss"]
    keep = loss < np.sort(loss)[-5] if drop else np.ones(len(loss), bool)
    return n[keep], (c / (6 * n))[keep], loss[keep]


def chinchilla_cases() -> Iterator[Case]:
    for drop, objective, reference in (
        (True, Objective(), (0.0010182740346, "Besiroglu et al., grid of the notebook")),
        (True, Objective("l1"), None),
        (False, Objective(), (0.00182601, "noted with the data")),
    ):
        n, d, loss = chinchilla(drop)
        yield Case(
            "chinchilla_epoch", f"{len(n)} runs", law_rows("chinchilla", loss, N=n, D=d), objective, reference
        )


GEMSTONES = {
    "hot": (2.076018e-4, 2.075052e-4),
    "cool_end": (2.059406e-4, 2.047791e-4),
    "lr_ablation_hot": (2.059023e-4, 2.058421e-4),
    "hot_100bplus": (6.923300e-4, 6.923289e-4),
    "hot_120bplus_only": (4.080789e-4, 4.080785e-4),
    "slim_chinchilla": (1.33978e-5, 1.30364e-5),
}


def gemstones(name: str) -> tuple[Array, Array, Array]:
    table = Table("gemstones", f"{name}.csv")
    return table["params_active_precise"], table["tokens"], table["final_loss"]


def gemstones_cases() -> Iterator[Case]:
    for name, (shipped, _) in GEMSTONES.items():
        n, d, loss = gemstones(name)
        rows = law_rows("chinchilla", loss, N=n, D=d)
        yield Case("gemstones", name, rows, Objective(delta=1e-4), (shipped, "shipped by the authors"))
    table = Table("gemstones", "hot_100bplus.csv")
    rows = law_rows(
        "width-depth",
        table["final_loss"],
        N=table["params_active_precise"],
        D=table["tokens"],
        width=table["width"],
        depth=table["depth"],
    )
    reference = (2.949708e-4, "shipped by the authors")
    yield Case("gemstones", "hot_100bplus, shape", rows, Objective(delta=1e-4), reference)


def data_constrained_cases() -> Iterator[Case]:
    table = Table("data_constrained", "fit_182_runs.csv")
    rows = law_rows(
        "data-constrained", table["loss"], N=table["params"], D=table["tokens"], U=table["unique_tokens"]
    )
    constants = rows.law.published[0].constants
    fixed = {name: constants[name] for name in ("A", "alpha", "B", "beta", "E")}
    yield Case("data_constrained", "182 runs", rows, Objective(), (0.0158259366, "Muennighoff et al."), fixed)


def sparsity_cases() -> Iterator[Case]:
    table = Table("weight_sparsity", "t5_c4.csv")
    rows = law_rows(
        "weight-sparsity",
        table["val-loss"],
        N=169_869_312 * table["scale"] * (1 - table["sparsity"]),
        S=table["sparsity"],
        D=table["steps"] * 65536,
    )
    yield Case("weight_sparsity", "T5", rows, Objective(), (7.603605e-6 * len(rows), "Frantar et al."), starts=256)
    table = Table("weight_sparsity", "vit_jft.json")
    rows = law_rows(
        "weight-sparsity",
        table["val-loss"],
        N=84_934_656 * table["scale"] * (1 - table["sparsity"]),
        S=table["sparsity"],
        D=table["total_examples"],
    )
    objective = Objective(delta=0.01, logarithmic=False)
    yield Case(
        "weight_sparsity", "ViT", rows, objective, (4.929087939e-4 * len(rows), "Frantar et al."), starts=128
    )


def vocabulary_rows(thousands: bool = True) -> Rows:
    """The 1054 runs of the paper; with f(V) called as the released code does, or in units."""
    table = Table("vocabulary", "exp_data.csv")
    keep = table["FLOPs"] >= 2.18e17
    v, width = table["vocab_size"][keep], table["embed_dim"][keep]
    called = np.log(np.minimum(v, 200_000) / (1000 if thousands else 1))
    per_character = 0.00639222 * called**2 - 0.15811069 * called + 1.20470122
    return law_rows(
        "vocabulary",
        table["Lossu"][keep],
        N=table["Non_vocab_parameters"][keep],
        Nv=v * width,
        D=table["num_characters"][keep] * per_character,
    )


def vocabulary_cases() -> Iterator[Case]:
    objective = Objective(logarithmic=False)
    yield Case("vocabulary", "f(V/1000)", vocabulary_rows(), objective, (0.0622917, "Tao et al."))
    yield Case("vocabulary", "f(V)", vocabulary_rows(False), objective, (0.066786, "noted with the data"))


def clark_rows(router: str) -> Rows:
    table = Table("routed_moe_clark", "curves.csv.gz")
    names, step = table.words("router_type"), table["step"]
    runs = table.words("hyper_id")
    last = np.zeros(len(step), bool)
    for run in np.unique(runs):
        mine = np.flatnonzero(runs == run)
        last[mine[np.argmax(step[mine])]] = True
    keep = last & np.isin(names, [router, "Dense"])
    dense = names == "Dense"
    keep &= (table["k"] == 1) & (table["routing_frequency"] == 0.5) & (table["flop_increase"] == 1)
    keep &= np.isfinite(table["loss_validation"])
    experts = np.where(dense, 1.0, table["num_experts"])
    return law_rows(
        "clark", table["loss_validation"][keep], N=table["dense_parameter_count"][keep], E=experts[keep]
    )


def clark_cases() -> Iterator[Case]:
    for router in ("S-Base", "RL-R", "Hash"):
        rows = clark_rows(router)
        yield Case("routed_moe_clark", router, rows, Objective("l2"), None, starts=64)


def gadre_rows(train: str = "rpj", column: str = "loss_c4_val") -> tuple[Rows, Table, Array]:
    table = Table("overtraining_gadre", "gadre_models.csv")
    mine = table.words("train_dataset") == train
    model, times = table.words("model"), table["chinchilla_multiplier"]
    small = table["params"] < 5e8
    small &= ~np.isin(model, ["open_lm_1b", "open_lm_7b"])
    chosen = mine & ((small & (times == 1)) | ((model == "d=96_l=8_h=4") & (times == 16)))
    rows = law_rows("gadre", table[column][chosen], N=table["params"][chosen], D=table["tokens"][chosen])
    return rows, table, mine


def gadre_cases() -> Iterator[Case]:
    for train in ("rpj", "c4_original", "rw_original"):
        rows, _, _ = gadre_rows(train)
        yield Case("overtraining_gadre", train, rows, Objective("l2", logarithmic=False))


def critical_batch_cases() -> Iterator[Case]:
    table = Table("critical_batch_size", "steps_to_target.csv")
    for size in np.unique(table["model_m_params"]):
        mine = table["model_m_params"] == size
        rows = law_rows(
            "critical-batch", table["min_steps_to_target"][mine], batch=table["batch_size_sequences"][mine]
        )
        yield Case("critical_batch_size", f"{size:g}M", rows, Objective("l2"), starts=16)


def rectified_rows(task: str) -> Iterator[tuple[str, Rows]]:
    table = Table("finetune_rectified", f"{task}.csv")
    samples = [name for name in table.cells if name.isdigit() and int(name) >= 200]
    sizes = np.array([float(name) for name in samples])
    losses = np.stack([table[name] for name in samples], axis=1)
    for model, measured in zip(table.cells["config name"], losses, strict=True):
        yield model, law_rows("rectified", measured, D=sizes)


def farseer() -> tuple[dict[str, Array], Array, Array, Array]:
    """Columns, loss, and which rows are held out as large N and as large D."""
    table = Table("farseer", "farseer_404.parquet")
    n, d, loss = table["N"], table["D"], table["loss"]
    far_n = np.isin(n, np.unique(n)[-3:])
    far_d = np.zeros(len(n), bool)
    for size in np.unique(n[~far_n]):
        mine = np.flatnonzero(n == size)
        far_d[mine[np.argsort(d[mine])[-3:]]] = True
    return {"N": n, "D": d}, loss, far_n, far_d


def farseer_cases() -> Iterator[Case]:
    columns, loss, far_n, far_d = farseer()
    keep = ~far_n & ~far_d
    for name in ("chinchilla", "coupled", "farseer"):
        rows = law_rows(name, loss[keep], **{key: column[keep] for key, column in columns.items()})
        yield Case("farseer", f"{keep.sum()} runs", rows, Objective(), None, starts=64)


def parallel_cases() -> Iterator[Case]:
    table = Table("scalebench_small", "parallel_train.parquet")
    for group in ("stack", "pile"):
        mine = table.words("group") == group
        rows = law_rows(
            "parallel", table["loss"][mine], N=table["num_params"][mine], P=table["parallel_size"][mine]
        )
        yield Case("scalebench_small", group, rows, Objective("l2"))


def marin(corpus: str) -> tuple[Array, Array, Array]:
    table = Table("isoflop_marin", "isoflops.csv")
    mine = table.words("dataset") == corpus
    return table["params"][mine], table["tokens"][mine], table["loss"][mine]


def marin_cases() -> Iterator[Case]:
    for corpus in ("comma", "dclm", "nemotron"):
        n, d, loss = marin(corpus)
        for name in ("chinchilla", "coupled"):
            yield Case("isoflop_marin", corpus, law_rows(name, loss, N=n, D=d), Objective())


def misfitting_cases() -> Iterator[Case]:
    table = Table("isoflop_misfitting", "isoflops.csv")
    for name in ("chinchilla", "coupled"):
        rows = law_rows(name, table["loss"], N=table["params"], D=table["tokens"])
        yield Case("isoflop_misfitting", "all", rows, Objective())


def cerebras_cases() -> Iterator[Case]:
    table = Table("cerebras_gpt", "pile_loss.csv")
    standard = table.words("parametrization") == "SP"
    for column in ("pile_test_loss_paper", "pile_test_loss_model_card"):
        rows = law_rows("power-compute", table[column][standard], C=table["training_flops"][standard])
        yield Case("cerebras_gpt", column, rows, Objective("l2"))


def schedule_cases() -> Iterator[Case]:
    """The three schedules that the papers fit to, by the law of annealing."""
    from steelyard.forecast.schedules import areas, schedule

    table = Table("lr_schedule_curves", "curves.csv")
    constant = schedule(16000, 3e-4, warmup=2160, decay="constant")
    rates = {
        "cosine_24000": schedule(24000, 3e-4, 3e-5, warmup=2160),
        "constant_24000": schedule(24000, 3e-4, warmup=2160, decay="constant"),
        "wsdcon_9": np.where(np.arange(16000) < 8000, constant, 9e-5),
    }
    for size in (25, 100, 400):
        early, late, losses = [], [], []
        for name, rate in rates.items():
            mine = (table.words("schedule") == name) & (table["model_m_params"] == size)
            mine &= table["step"] < len(rate)
            first, second = areas(rate, 0.999, warmup=2160)
            steps = table["step"][mine].astype(int)
            early.append(first[steps])
            late.append(second[steps])
            losses.append(table["loss"][mine])
        rows = law_rows("annealing", np.concatenate(losses), S1=np.concatenate(early), S2=np.concatenate(late))
        yield Case("lr_schedule_curves", f"{size}M", rows, Objective())


@dataclass(frozen=True)
class Models:
    """A table of public models without gaps: their names, families, scores and what they were trained with."""

    names: Array
    families: list[str]
    scores: Array
    compute: Array
    parameters: Array
    tokens: Array

    def only(self, chosen: Array) -> Models:
        named = [name for name, keep in zip(self.families, chosen, strict=True) if keep]
        columns = (self.scores, self.compute, self.parameters, self.tokens)
        return Models(self.names[chosen], named, *(column[chosen] for column in columns))


_OPEN = ("MMLU", "ARC-C", "HellaSwag", "Winograd", "TruthfulQA", "GSM8K", "XWinograd", "HumanEval")


def _models(table: Table, benchmarks: tuple[str, ...], family: str, size: str, name: str = "Model") -> Models:
    scores = np.stack([table[benchmark] for benchmark in benchmarks], axis=1)
    keep = np.isfinite(scores).all(axis=1)
    names = [word for word, kept in zip(table.cells[family], keep, strict=True) if kept]
    flops = next(column for column in table.cells if column.startswith("FLOPs"))
    columns = (table[flops], table[size], table["Pretraining Data Size (T)"])
    return Models(table.words(name)[keep], names, scores[keep], *(column[keep] for column in columns))


def observational(benchmarks: tuple[str, ...] = _OPEN) -> Models:
    table = Table("observational", "base_llm_benchmark_eval.csv")
    return _models(table, benchmarks, "Model Family", "Model Size (B)")


@dataclass(frozen=True)
class TaskError:
    """Mean error on the models with most compute, by a sigmoid of capabilities and by one of compute."""

    task: str
    fitted: int
    held: int
    capabilities: float
    compute: float


def emergent_errors(limit: float = 84.0) -> Iterator[TaskError]:
    """Tasks that were called emergent: sigmoids of the models up to a compute, held against those above it.

    Args:
        limit: in 1e21 operations; 84 are those of Llama 2 7B.
    """
    from steelyard.forecast.observational import capabilities, downstream

    # Without GSM8K, which small models all fail.
    models = observational(tuple(name for name in _OPEN if name != "GSM8K"))
    place = {str(name): row for row, name in enumerate(models.names)}
    table = Table("observational", "base_llm_emergent_capability_eval.csv")
    for task in table.cells:
        if task == "Model" or task.endswith("bleu"):
            continue
        rows = [
            (float(score), place[name])
            for name, score in zip(table.cells["Model"], table.cells[task], strict=True)
            if score and name in place and np.isfinite(models.compute[place[name]])
        ]
        scores, chosen = np.array([score for score, _ in rows]), np.array([row for _, row in rows])
        small = models.compute[chosen] <= limit
        space = capabilities(models.scores[chosen][small])
        errors = []
        for inputs in (space.of(models.scores[chosen]), np.log10(models.compute[chosen])):
            found = downstream(inputs[small], scores[small])
            errors.append(float(np.abs(found.predict(inputs[~small]) - scores[~small]).mean()))
        yield TaskError(task, int(small.sum()), int((~small).sum()), *errors)


SLOTH = {"MMLU": 0.25, "ARC": 0.25, "HellaSwag": 0.25, "Winogrande": 0.5, "TruthfulQA": 0.31, "GSM8K": 0.0}
"""The first leaderboard's benchmarks and what guessing scores on them, as in the authors' code."""


def sloth() -> Models:
    found = _models(Table("sloth", "data_v2.csv"), tuple(SLOTH), "Family2", "#Params (B)")
    return found.only(np.isfinite(found.parameters) & np.isfinite(found.tokens) & np.isfinite(found.compute))


def sloth_error(models: Models, family: str, kind: str, skills: int = 2, starts: int = 2) -> float:
    """Mean error on a family of which only the smallest model is known.

    Args:
        models: all of them.
        family: whose larger models are forecast.
        kind: skills: of size and tokens; compute: a sigmoid of compute with a level of the family for every
            benchmark; pca: principal components, linear in the logarithm of compute, with levels.
        skills: how many, or components.
        starts: of each fit.
    """
    from steelyard.forecast.observational import capabilities
    from steelyard.forecast.skills import fit_skills

    mine = np.flatnonzero(np.array(models.families) == family)
    held = mine[np.argsort(models.parameters[mine], kind="stable")][1:]
    apart = np.zeros(len(models.names), dtype=bool)
    apart[held] = True
    known, asked, chance = models.only(~apart), models.only(apart), np.array(list(SLOTH.values()))
    if kind == "skills":
        found = fit_skills(
            known.parameters, known.tokens, known.families, known.scores, chance, skills, starts=starts
        )
        predicted = found.predict(asked.parameters, asked.tokens, asked.families)
    elif kind == "compute":
        ones = np.ones(len(models.names))
        columns = []
        for place in range(len(chance)):
            one = slice(place, place + 1)
            found = fit_skills(
                known.compute, ones[~apart], known.families, known.scores[:, one], chance[one], 1, starts=starts
            )
            columns.append(found.predict(asked.compute, ones[apart], asked.families))
        predicted = np.concatenate(columns, axis=1)
    else:
        space = capabilities(known.scores, skills)
        names = sorted(set(known.families))
        design, wanted = (
            np.column_stack([np.log(some.compute), *(np.array(some.families) == name for name in names)])
            for some in (known, asked)
        )
        lines = np.linalg.lstsq(design, space.of(known.scores), rcond=None)[0]
        predicted = space.scores(wanted @ lines)
    return float(np.abs(predicted - asked.scores).mean())


def mixtures(group: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Shares of five domains and the losses on them, of one size of model."""
    table = Table("scalebench_small", "domain_mixture_train.parquet")
    mine = table.words("group") == group
    shares = {f"r{place}": table[f"proportion_domain_{place}"][mine] for place in range(1, 6)}
    return shares, {f"loss {place}": table[f"loss_domain_{place}"][mine] for place in range(1, 6)}


CASES = (
    schedule_cases,
    chinchilla_cases,
    gemstones_cases,
    data_constrained_cases,
    sparsity_cases,
    vocabulary_cases,
    clark_cases,
    gadre_cases,
    critical_batch_cases,
    farseer_cases,
    parallel_cases,
    marin_cases,
    misfitting_cases,
    cerebras_cases,
)


def gadre_all(train: str) -> tuple[Array, Array, Array]:
    table = Table("overtraining_gadre", "gadre_models.csv")
    mine = table.words("train_dataset") == train
    return table["params"][mine], table["tokens"][mine], table["loss_c4_val"][mine]


def ten_tables() -> Iterator[tuple[str, Array, Array, Array]]:
    """The ten tables on which laws are chosen: name, N, D, loss."""
    yield "Chinchilla 240", *chinchilla()
    yield "Gemstones hot", *gemstones("hot")
    yield "Gemstones cool_end", *gemstones("cool_end")
    for label, train in (("c4", "c4_original"), ("rpj", "rpj"), ("rw", "rw_original")):
        yield f"Gadre {label}", *gadre_all(train)
    for corpus in ("comma", "dclm", "nemotron"):
        yield f"Marin {corpus}", *marin(corpus)
    try:
        columns, loss, _, _ = farseer()
    except UserError:
        # Parquet takes a package that need not be there.
        return
    yield "Farseer", columns["N"], columns["D"], loss


def available(folder: str) -> bool:
    return (DATA / folder).is_dir()


def load_json(*path: str) -> Any:
    return json.loads(DATA.joinpath(*path).read_text())


def step_grids() -> list[Any]:
    """The 42 grids of Step law: 41 of the ScaleBench split and the one that it holds out."""
    from steelyard.forecast.choosing import table_from
    from steelyard.forecast.grids import grids_of

    split = Table("steplaw", "lr_bsz_2702.parquet")
    dense = Table("steplaw", "dense_lr_bs_loss.csv")
    known = {
        "N": split["non_embedding_param_size"],
        "D": split["data_size"],
        "lr": split["lr"],
        "batch": split["bsz"],
        "loss": split["lm_loss"],
    }
    pairs = set(zip(known["N"].tolist(), known["D"].tolist(), strict=True))
    apart = np.array([(n, d) not in pairs for n, d in zip(dense["N"].tolist(), dense["D"].tolist(), strict=True)])
    more = {"N": "N", "D": "D", "lr": "lr", "batch": "bs", "loss": "smooth loss"}
    columns = {key: np.concatenate([known[key], dense[name][apart]]) for key, name in more.items()}
    return grids_of(table_from(columns), sequence=2048)


def dense_grids() -> list[Any]:
    """The 17 grids of the authors' own file."""
    from steelyard.forecast.choosing import table_from
    from steelyard.forecast.grids import grids_of

    dense = Table("steplaw", "dense_lr_bs_loss.csv")
    more = {"N": "N", "D": "D", "lr": "lr", "batch": "bs", "loss": "smooth loss"}
    return grids_of(table_from({key: dense[name] for key, name in more.items()}), sequence=2048)
