"""Scaling laws on public tables: published values, our optima, which law forecasts, and what rules lose.

    python benchmarks/forecast.py [fits] [rectified] [choice] [coverage] [rules] [next] [models] [mixtures] [speed]
        [--json FOLDER]

Everything but `speed` if no part is named. The tables are read from `shared/data` beside the repository; each keeps
a README with its source and licence. `speed` fits beside PyPI's chinchilla where that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _forecast_data as public
import numpy as np

from steelyard.errors import UserError
from steelyard.forecast import laws
from steelyard.forecast.choosing import compare, error_on, reliability, table_from
from steelyard.forecast.experiments import picked, propose
from steelyard.forecast.fitting import fit
from steelyard.forecast.objective import Objective
from steelyard.forecast.uncertainty import bootstrap

Rows = list[dict[str, Any]]


def fits() -> Rows:
    """Every case: the objective of the published constants, ours, and how many starts agree."""
    made = []
    for cases in public.CASES:
        try:
            for case in cases():
                found = fit(case.rows, case.objective, starts=case.starts, fixed=case.fixed)
                made.append(_row(case, found))
                print(_line(made[-1]), flush=True)
        except UserError as error:
            print(f"left out: {error}")
    return made


def _row(case: Any, found: Any) -> dict[str, Any]:
    return {
        "folder": case.folder,
        "rows": case.label,
        "law": found.law.name,
        "runs": len(case.rows),
        "objective": found.objective.label,
        "published": case.reference[0] if case.reference else None,
        "by": case.reference[1] if case.reference else "",
        "ours": found.value,
        "agree": f"{found.agreeing}/{found.starts}",
        "error %": 100 * found.error,
        "R2": found.r2,
        "constants": {name: float(f"{value:.6g}") for name, value in found.constants.items()},
    }


def _line(row: dict[str, Any]) -> str:
    published = "-" if row["published"] is None else f"{row['published']:.8g}"
    constants = ", ".join(f"{name} {value:.6g}" for name, value in row["constants"].items())
    return (
        f"{row['folder']:20} {row['rows']:20} {row['law']:16} published {published:>12}  ours {row['ours']:<13.8g} "
        f"starts {row['agree']:>8}  error {row['error %']:.3f} %\n    {constants}"
    )


def rectified() -> Rows:
    """All ninety fine-tuning curves: root mean square of log residuals, beside the published ones."""
    published = public.Table("finetune_rectified", "published_rmsd.csv")
    made = []
    for task in ("flan", "wmt19", "gigaword"):
        errors = [
            float(np.sqrt(np.mean(fit(rows, Objective("l2"), starts=32).residuals ** 2)))
            for _, rows in public.rectified_rows(task)
        ]
        theirs = published["our_rmsd_under_log"][[name.lower() == task for name in published.cells["dataset"]]]
        made.append({"task": task, "ours": float(np.mean(errors)), "published": float(theirs.mean())})
        print(f"{task:10} rectified: published {theirs.mean():.5f}, ours {np.mean(errors):.5f}")
    return made


def choice() -> Rows:
    """The ten tables: which law the held-out compute chooses, and which was right."""
    made, right = [], 0
    print(f"{'table':22} {'in-sample %':>15} {'inner %':>15} {'outer %':>15}   (chinchilla / coupled)")
    for name, n, d, loss in public.ten_tables():
        table = table_from({"N": n, "D": d, "loss": loss}, name)
        found = compare(table, ("chinchilla", "coupled"), outer=0.2, starts=16)
        by = {score.law: score for score in found.scores}
        pair = [by["chinchilla"], by["coupled"]]
        best = min(pair, key=lambda score: score.outer or np.inf)
        right += found.best.law == best.law
        made.append({"table": name, "chosen": found.best.law, "right": best.law, "in_sample": found.tempting.law})
        columns = [
            f"{100 * a:.3f} / {100 * b:.3f}"
            for a, b in (
                (pair[0].in_sample, pair[1].in_sample),
                (pair[0].inner, pair[1].inner),
                (pair[0].outer or 0, pair[1].outer or 0),
            )
        ]
        print(f"{name:22} {columns[0]:>15} {columns[1]:>15} {columns[2]:>15}   chosen {found.best.law}")
    misled = sum(row["in_sample"] != row["right"] for row in made)
    print(f"right on {right} of {len(made)}; in-sample error would be wrong on {misled}")
    return made


def coverage() -> Rows:
    """90 % intervals from the lower 80 % of compute, held against the top 20 %."""
    made = []
    for name, n, d, loss in public.ten_tables():
        table = table_from({"N": n, "D": d, "loss": loss}, name)
        order = np.argsort(table.compute(), kind="stable")
        kept, apart = np.split(order, [len(order) - round(0.2 * len(order))])
        law = compare(table.only(kept), ("chinchilla", "coupled"), starts=8).best.law
        rows = table.rows(laws.get(law))
        half = reliability(rows.only(kept).centred(), table.compute()[kept], starts=8).half_width()
        found = fit(rows.only(kept).centred(), starts=8)
        off = np.abs(np.log(found.predict(rows.only(apart).columns) / rows.measured[apart]))
        made.append(
            {"table": name, "law": law, "half_width": half, "held": len(apart), "inside": int((off <= half).sum())}
        )
        print(f"{name:22} {law:10} interval ±{100 * half:5.2f} %  covers {(off <= half).sum()} of {len(apart)}")
    inside, held = sum(row["inside"] for row in made), sum(row["held"] for row in made)
    print(f"covered: {100 * inside / held:.1f} % of {held} runs")
    return made


def rules() -> Rows:
    """Mean and worst regret of every rule on Step law's grids."""
    from steelyard.forecast.grids import fit_rule, score
    from steelyard.forecast.rules import RULES

    made = []
    for label, load in (("all grids there are", public.step_grids), ("dense file", public.dense_grids)):
        try:
            grids = load()
        except UserError as error:
            print(f"left out: {error}")
            continue
        fitted = fit_rule(grids)
        for rule in (*RULES.values(), fitted.rule):
            found = score(rule, grids)
            made.append(
                {"grids": label, "count": len(grids), "rule": rule.name, "mean": found.mean, "max": found.worst}
            )
            regret = f"mean {100 * found.mean:.3f} %  worst {100 * found.worst:.2f} %"
            print(f"{label}, {len(grids)}: {rule.name:9} {regret}")
        print(f"  fitted: {fitted.rule.formula}; errors of exponents {fitted.rate_errors}, {fitted.batch_errors}")
    return made


def next_runs() -> Rows:
    """Choose a tenth of the operations of each table's lower 80 %; forecast its top 20 %."""
    made = []
    for name, n, d, loss in public.ten_tables():
        law = compare(table_from({"N": n, "D": d, "loss": loss}, name), outer=0.2, starts=8).best.law
        rows, cost = public.law_rows(law, loss, N=n, D=d), 6 * n * d
        order = np.argsort(cost, kind="stable")
        pool, test = np.split(order, [len(order) - round(0.2 * len(order))])
        budget = 0.1 * float(cost[pool].sum())
        have = list(pool[: max(2 * len(rows.law.parameters), 8)])
        goal = test[np.argmax(cost[test])]
        while True:
            found = fit(rows.only(np.array(have)).centred(), starts=8)
            rest = np.array([place for place in pool if place not in set(have)], dtype=int)
            left = budget - float(cost[have].sum())
            rest = rest[cost[rest] <= left] if len(rest) else rest
            if not len(rest):
                break
            columns = {"N": n[rest], "D": d[rest]}
            design = propose(found, columns, cost[rest], left, {"N": n[goal], "D": d[goal]}, 5)
            if not design.proposals:
                break
            have += list(rest[np.unique(picked(design, columns))])
        cheapest = pool[np.cumsum(cost[pool]) <= budget]
        errors = [
            error_on(fit(rows.only(np.array(chosen)).centred(), starts=8), rows.only(test))
            for chosen in (pool, have, cheapest)
        ]
        share = float(cost[have].sum() / cost[pool].sum())
        made.append(
            {
                "table": name,
                "law": law,
                "all": errors[0],
                "chosen": errors[1],
                "cheapest": errors[2],
                "share": share,
            }
        )
        print(
            f"{name:22} {law:10} error on the top 20 %: all {len(pool)} runs {100 * errors[0]:.3f} %, "
            f"chosen {len(have)} ({100 * share:.1f} % of the operations) {100 * errors[1]:.3f} %, "
            f"cheapest {len(cheapest)} {100 * errors[2]:.3f} %"
        )
    matched = sum(row["chosen"] <= 1.05 * row["all"] for row in made)
    better = sum(row["chosen"] < row["cheapest"] for row in made)
    print(f"as good as all runs (within 5 %) on {matched} of {len(made)}; better than the cheapest on {better}")
    return made


def models() -> Rows:
    """Public models: capabilities behind benchmarks, tasks called emergent, families from their smallest model."""
    from steelyard.forecast.observational import capabilities, families

    made: Rows = []
    table = public.observational()
    for standardise, published in ((False, "PC-1 about 80 %, three about 97 %"), (True, "the same")):
        shares = 100 * capabilities(table.scores, standardise=standardise).shares
        made.append({"models": len(table.scores), "standardised": standardise, "shares": shares[:3].tolist()})
        print(
            f"observational, {len(table.scores)} models{', standardised' if standardise else ''}: published "
            f"{published}; ours {shares[0]:.1f} % and {shares[:3].sum():.1f} %"
        )
    first = capabilities(table.scores).of(table.scores)[:, 0]
    for line in families(first, table.compute, table.families):
        made.append({"family": line.name, "models": line.models, "R2": line.r2})
        print(f"  {line.name:16} {line.models:2} models  PC-1 on log compute: R2 {line.r2:.3f}")
    for row in public.emergent_errors():
        made.append({"task": row.task, "capabilities": row.capabilities, "compute": row.compute})
        print(
            f"  {row.task:32} error on {row.held} models above 8.4e22 operations: capabilities "
            f"{row.capabilities:.3f}, compute {row.compute:.3f}"
        )
    made += _skills()
    return made


def _skills() -> Rows:
    """Every family of four models or more, from its smallest model and the other families."""
    table = public.sloth()
    counted = {name: table.families.count(name) for name in sorted(set(table.families))}
    kinds = [("compute", 1), *(("pca", n) for n in (1, 2, 3)), *(("skills", n) for n in (1, 2, 3))]
    made = []
    for name, count in counted.items():
        if count >= 4:
            errors = {f"{kind} {n}": public.sloth_error(table, name, kind, n, starts=1) for kind, n in kinds}
            made.append({"family": name, "models": count, **errors})
    means = {key: float(np.mean([row[key] for row in made])) for key in made[0] if key not in ("family", "models")}
    print(f"sloth, {len(table.names)} models, mean error on {len(made)} families known by their smallest model:")
    print("  " + ", ".join(f"{key} {100 * value:.2f}" for key, value in means.items()) + " points")
    return [*made, {"family": "mean", **means}]


def mixtures() -> Rows:
    """The mixing law on five domains: explained where fitted, and every fifth mixture held out in turn."""
    from steelyard.forecast.mixtures import fit_mixtures

    made = []
    for group in ("70M", "160M", "305M", "410M"):
        try:
            shares, losses = public.mixtures(group)
        except UserError as error:
            print(f"left out: {error}")
            break
        explained = [found.r2 for found in fit_mixtures(shares, losses, Objective("l2"), starts=16).values()]
        table = np.stack(list(shares.values()), axis=1)
        ours, linear = [], []
        for fold in range(5):
            apart = np.arange(len(table)) % 5 == fold
            fits = fit_mixtures(
                {name: column[~apart] for name, column in shares.items()},
                {name: loss[~apart] for name, loss in losses.items()},
                Objective("l2"),
                starts=8,
            )
            for name, loss in losses.items():
                predicted = fits[name].predict({key: column[apart] for key, column in shares.items()})
                line = np.linalg.lstsq(table[~apart], loss[~apart], rcond=None)[0]
                ours.append(np.abs(predicted / loss[apart] - 1).mean())
                linear.append(np.abs(table[apart] @ line / loss[apart] - 1).mean())
        row = {"group": group, "R2": np.mean(explained), "held": np.mean(ours), "line": np.mean(linear)}
        made.append({key: value if isinstance(value, str) else float(value) for key, value in row.items()})
        print(
            f"{group:5} 20 mixtures: R2 {np.mean(explained):.4f}; held out in turn: mean error "
            f"{100 * np.mean(ours):.2f} %, of a straight line {100 * np.mean(linear):.2f} %"
        )
    return made


def speed() -> Rows:
    """One fit and 1,000 bootstraps of the Chinchilla table, beside one fit of PyPI's chinchilla."""
    n, d, loss = public.chinchilla()
    rows = public.law_rows("chinchilla", loss, N=n, D=d)
    fit(rows, starts=2)
    began = time.perf_counter(), time.process_time()
    found = fit(rows)
    bootstrap(found, 1000)
    ours = time.perf_counter() - began[0], time.process_time() - began[1]
    made: Rows = [{"tool": "steelyard", "seconds": ours[0], "cpu": ours[1], "objective": found.value}]
    print(f"steelyard: fit and 1,000 bootstraps in {ours[0]:.2f} s ({ours[1]:.2f} s of processor time)")
    if importlib.util.find_spec("chinchilla") is None:
        print("chinchilla is not installed (pip install chinchilla==0.2.0)")
        return made
    made.append(_peer(n, d, loss))
    print(f"chinchilla 0.2.0: one fit in {made[1]['seconds']:.2f} s: {made[1]['constants']}")
    return made


def _peer(n: Any, d: Any, loss: Any) -> dict[str, Any]:
    """PyPI's chinchilla on the same rows, with its own grid of 243 starts and a Huber loss of logarithms."""
    import tempfile

    from chinchilla import Chinchilla

    def huber(measured: Any, predicted: Any) -> Any:
        off = np.abs(np.log(predicted) - np.log(measured))
        return np.where(off <= 1e-3, 0.5 * off**2, 1e-3 * (off - 5e-4)).sum()

    grid = {
        "E": [1.1, 1.5, 2.0],
        "A": [95.0, 500.0, 2500.0],
        "B": [245.0, 1000.0, 4000.0],
        "alpha": [0.1, 0.4, 0.7],
        "beta": [0.1, 0.4, 0.7],
    }
    with tempfile.TemporaryDirectory() as folder:
        peer = Chinchilla(
            folder,
            param_grid=grid,
            seed_ranges={"C": (1e15, 1e16), "N_to_D": (10, 100)},
            loss_fn=huber,
            log_level=50,
        )
        for size, tokens, value in zip(n, d, loss, strict=True):
            peer.database.append(C=6 * size * tokens, N=size, D=tokens, loss=value)
        began = time.perf_counter()
        peer.fit(parallel=False)
        seconds = time.perf_counter() - began
        names = ("E", "A", "B", "alpha", "beta")
        return {
            "tool": "chinchilla 0.2.0",
            "seconds": seconds,
            "constants": {name: float(getattr(peer, name)) for name in names},
        }


PARTS: dict[str, Callable[[], Rows]] = {
    "fits": fits,
    "rectified": rectified,
    "choice": choice,
    "coverage": coverage,
    "rules": rules,
    "next": next_runs,
    "models": models,
    "mixtures": mixtures,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    for name in options.parts or [part for part in PARTS if part != "speed"]:
        print(f"\n{name}: {PARTS[name].__doc__}")
        rows = PARTS[name]()
        if options.json is not None:
            options.json.mkdir(parents=True, exist_ok=True)
            (options.json / f"forecast-{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
