"""`steelyard forecast` as users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import Steelyard


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs of Chinchilla's constants with a little noise, in a file."""
    draw = np.random.default_rng(0)
    lines = ["params,tokens,val_loss"]
    for n in np.geomspace(5e7, 2e9, 6):
        for d in np.geomspace(2e9, 8e10, 6):
            loss = (1.8 + 480 / n**0.35 + 2000 / d**0.366) * np.exp(0.002 * draw.standard_normal())
            lines.append(f"{n:.0f},{d:.0f},{loss:.6f}")
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


FAST = ("--starts", 4, "--bootstraps", 20)


def test_fit_predict_and_pictures(runs: Path, tmp_path: Path, steelyard: Steelyard) -> None:
    page = tmp_path / "page.html"
    ended = steelyard(
        "forecast", "fit", runs, "--law", "chinchilla", *FAST, "--html", page, "--png", tmp_path / "png"
    )
    assert ended.code == 0, ended.err
    assert "E + A/N^alpha + B/D^beta" in ended.out and "of 4 starts agree" in ended.out
    assert page.read_text().count("<svg") >= 2 * 7
    assert {"loss.png", "residuals.png", "profile-E.png"} <= {path.name for path in (tmp_path / "png").iterdir()}
    ended = steelyard(
        "forecast",
        "predict",
        runs,
        "--law",
        "chinchilla",
        *FAST,
        "--at",
        "N=1e10,D=4e11",
        "--at",
        "N=1e11,D=1e13",
        "--json",
    )
    data = json.loads(ended.out)
    assert data["constants"]["E"] == pytest.approx(1.8, rel=0.05)
    forecast, far = data["forecasts"]
    truth = 1.8 + 480 / 1e10**0.35 + 2000 / 4e11**0.366
    assert forecast["interval"][0] < truth < forecast["interval"][1]
    assert forecast["beyond"]["N"] == pytest.approx(5) and forecast["beyond"]["C"] == pytest.approx(25)
    assert not forecast["warnings"]
    assert "D is 125 times beyond the fitted runs" in far["warnings"]
    assert any("times the largest fitted run; forecasts were checked up to" in words for words in far["warnings"])


def test_compare_and_the_three_roads(runs: Path, steelyard: Steelyard) -> None:
    data = json.loads(steelyard("forecast", "compare", runs, "--starts", 4, "--outer", "0.2", "--json").out)
    assert {law["law"] for law in data["laws"]} == {"chinchilla", "coupled"} and data["rows"] == 29
    assert all(law["outer"] < 0.02 for law in data["laws"])
    roads = json.loads(steelyard("forecast", "compare", runs, "--approaches", "--law", "chinchilla", "--json").out)
    assert [road["approach"] for road in roads] == [1, 2, 3]
    assert roads[2]["exponent"] == pytest.approx(0.366 / 0.716, abs=0.06)


def test_plan_audit_next(runs: Path, steelyard: Steelyard) -> None:
    law = ("--law", "chinchilla")
    ended = steelyard(
        "forecast", "plan", runs, *law, "--hours", 1000, "--device", "t4", "--bootstraps", 20, "--json"
    )
    data = json.loads(ended.out)
    assert data["hours"] == pytest.approx(1000)
    # A T4 reaches a share of 65 Tflop/s in 16 bits.
    assert 6 * data["plan"]["parameters"] * data["plan"]["tokens"] == pytest.approx(0.6 * 65e12 * 3.6e6)
    ended = steelyard("forecast", "audit", runs, *law, "--at", "N=1e11,D=1e10,loss=2.3", "--bootstraps", 20)
    assert ended.code == 0 and "of its operations buy nothing" in ended.out and "measured 2.3000" in ended.out
    ended = steelyard("forecast", "next", runs, *law, "--flops", "1e21", "--for", "N=1e10,D=2e11", "--json")
    design = json.loads(ended.out)
    assert sum(run["flops"] for run in design["runs"]) <= 1e21
    assert design["runs"][-1]["error"] < design["before"]


def test_hparams(tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard("forecast", "hparams", "--at", "N=1e9,D=1e11", "--json")
    rules = {rule["rule"]: rule for rule in json.loads(ended.out)["at"][0]["rules"]}
    assert rules["step"]["lr"] == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert rules["deepseek"]["outside"] == ["C"]
    grid = "n,d,lr,bs,loss\n" + "".join(
        f"1e8,1e9,{lr},64,{loss}\n" for lr, loss in ((1e-4, 3), (1e-3, 2), (1e-2, 4))
    )
    path = tmp_path / "grid.csv"
    path.write_text(grid)
    refused = steelyard("forecast", "hparams", path)
    assert refused.code == 2 and "has 5 runs" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "none.csv"), "none.csv: there is no such file"),
        (("fit", "RUNS", "--law", "chinchila"), "did you mean chinchilla"),
        (("fit", "RUNS", "--law", "chinchilla", "--fix", "F=1"), "has no parameter 'F'"),
        (("fit", "RUNS", "--map", "loss=none"), "has no column 'none'"),
        (("fit", "RUNS", "--where", "params=1"), "no row has it"),
        (("fit", "RUNS", "--law", "data-constrained"), "no column is known as U (unique data)"),
        (("predict", "RUNS"), "say which run, as in --at"),
        (("predict", "RUNS", "--at", "N=x"), "--at N=x: give NAME=NUMBER"),
        (
            ("predict", "RUNS", "--law", "chinchilla", "--starts", "2", "--bootstraps", "20", "--at", "N=1e9"),
            "say D too",
        ),
        (("plan", "RUNS"), "give one goal"),
        (("plan", "RUNS", "--hours", "3"), "--hours and --device go together"),
        (("audit", "RUNS", "--at", "N=1e9"), "audit needs N and D"),
        (("hparams",), "say for which model"),
        (("compare", "RUNS", "--holdout", "2"), "a hold-out is a share"),
    ],
)
def test_mistakes_end_with_one_line(
    runs: Path, steelyard: Steelyard, arguments: tuple[str, ...], message: str
) -> None:
    ended = steelyard("forecast", *(runs if word == "RUNS" else word for word in arguments))
    assert ended.code == 2
    assert message in ended.err and ended.err.strip().count("\n") == 0
