"""`steelyard forecast hparams`: learning rate and batch by published rules, and what the rules lose on grids."""

from __future__ import annotations

from typing import Any

import click

from steelyard.cli.forecast_options import pairs
from steelyard.errors import UserError


@click.command("hparams")
@click.argument("grids", required=False)
@click.option("--at", multiple=True, metavar="N=1e9,D=100e9", help="the model and its tokens; repeat for more")
@click.option("--map", "mapping", default="", metavar="N=COLUMN,…", help="which column of GRIDS is what")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="only such rows of GRIDS")
@click.option(
    "--sequence", type=float, default=1.0, help="tokens of a sequence, where GRIDS count batches in those"
)
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(
    grids: str | None, at: tuple[str, ...], mapping: str, where: tuple[str, ...], sequence: float, as_json: bool
) -> None:
    """Say what rules choose --at a size, and score them by regret on GRIDS of lr, batch and loss."""
    from steelyard.cli.console import show_json
    from steelyard.forecast.rules import RULES

    places = [pairs(words, "--at") for words in at]
    if grids is None and not places:
        raise UserError("hparams: say for which model with --at N=1e9,D=100e9, or give GRIDS to score the rules on")
    for place in places:
        if not {"N", "D"} <= set(place) or min(place.values()) <= 0:
            raise UserError("--at: hparams needs N (without embeddings) and D (tokens), both above zero")
    data: dict[str, Any] = {"at": [], "scores": []}
    for place in places:
        n, d = place["N"], place["D"]
        chosen = []
        for rule in RULES.values():
            rate, batch = rule(n, d)
            known = {"N": n, "D": d, "C": 6 * n * d}
            outside = [key for key, (low, high) in rule.ranges.items() if not low <= known[key] <= high]
            chosen.append({"rule": rule.name, "lr": float(rate), "batch": float(batch), "outside": outside})
        data["at"].append({**place, "rules": chosen})
    if grids is not None:
        data.update(_score(grids, mapping, where, sequence))
    if as_json:
        show_json(data)
        return
    _show(data)


def _score(path: str, mapping: str, where: tuple[str, ...], sequence: float) -> dict[str, Any]:
    from steelyard.cli.forecast_options import read
    from steelyard.forecast.grids import fit_rule, grids_of, score
    from steelyard.forecast.rules import RULES

    found = grids_of(read(path, mapping, where), sequence)
    rules = list(RULES.values())
    data: dict[str, Any] = {"grids": [_grid(grid) for grid in found], "note": ""}
    try:
        fitted = fit_rule(found)
        rules.append(fitted.rule)
        data["fitted"] = {
            "formula": fitted.rule.formula,
            "points": fitted.points,
            "errors": {
                "lr_N": fitted.rate_errors[0],
                "lr_D": fitted.rate_errors[1],
                "batch_D": fitted.batch_errors[0],
            },
        }
    except UserError as error:
        data["note"] = str(error)
    scores = [score(rule, found) for rule in rules]
    data["scores"] = [
        {"rule": one.rule, "mean": one.mean, "worst": one.worst, "in_basin": one.inside}
        for one in sorted(scores, key=lambda one: one.mean)
    ]
    return data


def _grid(grid: Any) -> dict[str, Any]:
    rate, batch = grid.basin()
    return {
        "N": grid.parameters,
        "D": grid.tokens,
        "runs": len(grid.loss),
        "best": {"lr": float(grid.rate[grid.best]), "batch": float(grid.batch[grid.best])},
        "loss": float(grid.loss.min()),
        "basin": {"lr": list(rate), "batch": list(batch)},
    }


def _show(data: dict[str, Any]) -> None:
    from rich.table import Table

    from steelyard.cli.console import show

    for place in data["at"]:
        table = Table(title=f"N = {place['N']:.4g}, D = {place['D']:.4g}", title_justify="left")
        for heading in ("rule", "learning rate", "batch, tokens", "outside the measured range of"):
            table.add_column(heading, justify="right" if heading.startswith(("lea", "bat")) else "left")
        for one in place["rules"]:
            table.add_row(one["rule"], f"{one['lr']:.4g}", f"{one['batch']:,.0f}", ", ".join(one["outside"]))
        show(table)
    if data["scores"]:
        table = Table(
            title=f"{len(data['grids'])} grids: loss above the best of each grid, %", title_justify="left"
        )
        for heading in ("rule", "mean", "worst", "within 0.2 %"):
            table.add_column(heading, justify="left" if heading == "rule" else "right")
        for one in data["scores"]:
            table.add_row(
                one["rule"],
                f"{100 * one['mean']:.3f}",
                f"{100 * one['worst']:.2f}",
                f"{100 * one['in_basin']:.0f} %",
            )
        show(table)
    if data.get("fitted"):
        errors = data["fitted"]["errors"]
        click.echo(
            f"fitted here to {data['fitted']['points']} runs: {data['fitted']['formula']}; standard errors of the "
            f"exponents {errors['lr_N']:.3f}, {errors['lr_D']:.3f}, {errors['batch_D']:.3f} over resampled grids"
        )
    if data.get("note"):
        click.echo(f"note: {data['note']}")
