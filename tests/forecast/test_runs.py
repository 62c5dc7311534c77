"""Run tables: what is understood, what is worked out, what is refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import UserError
from steelyard.forecast import laws
from steelyard.forecast.quantities import QUANTITIES, factor, number
from steelyard.forecast.runs import RunTable, convert, read_runs, table_of

GOOD = "params,tokens,val_loss\n" + "".join(
    f"{n:g},{d:g},{1.7 + 400 / n**0.34 + 400 / d**0.28:.6f}\n" for n in (1e8, 3e8, 1e9) for d in (2e9, 1e10, 5e10)
)


def write(folder: Path, text: str, name: str = "runs.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_columns_are_known_by_their_names(tmp_path: Path) -> None:
    table = read_runs(write(tmp_path, GOOD))
    assert {"N", "D", "C", "loss"} == set(table.columns)
    assert table.values("C") == pytest.approx(6 * table.values("N") * table.values("D"))
    assert table.unit("C") == "6ND" and "6ND" in table.notes[0]


def test_tokens_are_worked_out_of_compute(tmp_path: Path) -> None:
    table = read_runs(write(tmp_path, "n,flops,loss\n1e8,6e18,3\n2e8,6e18,2.9\n"))
    assert table.values("D") == pytest.approx([1e10, 5e9])


def test_map_names_columns_units_and_factors(tmp_path: Path) -> None:
    text = "Model Size (B),T,x\n0.1,0.01,0.9\n0.2,0.02,0.8\n"
    mapping = "N=Model Size (B):non-embedding:1e9,D=T:1e12,loss=x:bits/char"
    table = read_runs(write(tmp_path, text), mapping)
    assert table.values("N") == pytest.approx([1e8, 2e8]) and table.unit("N") == "non-embedding"
    assert table.values("D") == pytest.approx([1e10, 2e10])
    assert convert(table, "loss", "nats/char").values("loss") == pytest.approx(np.array([0.9, 0.8]) * math.log(2))


@pytest.mark.parametrize(
    ("text", "mapping", "message"),
    [
        ("", "", "the table is empty"),
        ("params,tokens,loss\n", "", "holds no runs"),
        ("params,tokens,loss\n1e8,1e9\n", "", "row 2 has 2 cells"),
        ("params,params,loss\n1,2,3\n", "", "two columns are called 'params'"),
        ("params,tokens,loss\n1e8,1e9,nan\n1e8,2e9,3\n", "", r"row 2: loss \(column 'loss'\) is nan"),
        ("params,tokens,loss\n1e8,1e9,\n1e8,2e9,3\n", "", r"row 2: loss \(column 'loss'\) is nan"),
        (
            "params,tokens,loss\n1e8,1e9,3\n1e8,2e9,-3\n",
            "",
            r"row 3: loss \(column 'loss'\) is -3; loss is above 0",
        ),
        ("params,tokens,loss\n1e8,1e9,3\n1e8,0,3\n", "", r"row 3: D \(column 'tokens'\) is 0"),
        ("params,tokens,loss\n1e8,1e9,many\n", "", "row 2: column 'loss' .* holds 'many', not a number"),
        ("params,tokens,loss\n1e8,1e9,3\n1e8,1e9,3\n", "", "rows 2 and 3 are the same run"),
        ("params,tokens,loss\n125,1e9,3\n1.3e11,1e9,2\n", "", r"N \(column 'params'\) goes from 125 to 1.3e\+11"),
        (
            "n,d,loss,loss_unit\n1e8,1e9,3,nats\n1e8,2e9,4,bits\n",
            "",
            "loss is counted in different ways: column 'loss_unit' holds bits, nats; choose one with --where",
        ),
        ("x,y,z\n1,2,3\n", "", "no column is known"),
        (
            "params,val_loss,eval_loss\n1,2,3\n",
            "",
            "loss may be val_loss or eval_loss; say which with --map loss=val",
        ),
        ("n,d,loss\n1,2,3\n", "N=params", "has no column 'params'; it has n, d, loss"),
        ("n,d,loss\n1,2,3\n", "Q=n", "no quantity 'Q'"),
        ("n,d,loss\n1,2,3\n", "loss=loss:furlongs", "no unit 'furlongs' of loss; known: nats/token"),
        ("n,d,loss\n1,2,3\n", "loss", "give QUANTITY=COLUMN"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, text: str, mapping: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read_runs(write(tmp_path, text), mapping)
    assert "\n" not in str(refused.value)


def test_one_size_only_and_too_few_rows_are_refused(tmp_path: Path) -> None:
    from steelyard.forecast.fitting import fit

    one = read_runs(write(tmp_path, "n,d,loss\n" + "".join(f"1e8,{d}e9,{3 - d / 9}\n" for d in range(1, 9))))
    with pytest.raises(UserError, match=r"all 8 runs have N = 1e\+08; law chinchilla needs several"):
        one.rows(laws.get("chinchilla"))
    few = read_runs(write(tmp_path, "n,d,loss\n1e8,1e9,3\n2e8,2e9,2.9\n3e8,4e9,2.7\n"))
    with pytest.raises(UserError, match="has 5 constants to fit and there are 3 rows; it takes 6 at least"):
        fit(few.rows(laws.get("chinchilla")))


def test_missing_files_and_kinds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_runs(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"not \.xls"):
        read_runs(write(tmp_path, "x", "runs.xls"))
    with pytest.raises(UserError, match="not JSON in line 1"):
        read_runs(write(tmp_path, "{", "runs.json"))


def same(first: RunTable, second: RunTable) -> None:
    assert set(first.columns) == set(second.columns)
    for name in first.columns:
        assert first.values(name) == pytest.approx(second.values(name))


def test_every_kind_of_file_says_the_same(tmp_path: Path) -> None:
    expected = read_runs(write(tmp_path, GOOD))
    names, *rows = [line.split(",") for line in GOOD.splitlines()]
    objects = [dict(zip(names, map(float, row), strict=True)) for row in rows]
    by_column = {name: [item[name] for item in objects] for name in names}
    pandas = {name: {str(i): value for i, value in enumerate(values)} for name, values in by_column.items()}
    for text, name in (
        (GOOD.replace(",", "\t"), "runs.tsv"),
        ("\n".join(json.dumps(item) for item in objects), "runs.jsonl"),
        (json.dumps(objects), "list.json"),
        (json.dumps(by_column), "columns.json"),
        (json.dumps(pandas), "pandas.json"),
    ):
        same(read_runs(write(tmp_path, text, name)), expected)


def test_trainer_state(tmp_path: Path) -> None:
    history = [
        {"step": 10, "loss": 5.0, "learning_rate": 1e-3},
        {"step": 10, "eval_loss": 4.9},
        {"step": 20, "eval_loss": 4.1},
    ]
    table = read_runs(write(tmp_path, json.dumps({"log_history": history}), "trainer_state.json"))
    assert table.values("loss") == pytest.approx([4.9, 4.1]) and table.values("steps") == pytest.approx([10, 20])
    bare = read_runs(write(tmp_path, json.dumps({"log_history": history[:1]}), "trainer_state.json"))
    assert bare.values("loss") == pytest.approx([5.0]) and bare.values("lr") == pytest.approx([1e-3])


def test_trackers(tmp_path: Path) -> None:
    board = read_runs(write(tmp_path, "Wall time,Step,Value\n1.5,1,4\n2.5,2,3.5\n"))
    assert board.values("loss") == pytest.approx([4, 3.5]) and board.values("steps") == pytest.approx([1, 2])
    wandb = '"Step","a - loss","a - loss__MIN","b - loss"\n1,4,4,5\n2,3,3,\n'
    table = read_runs(write(tmp_path, wandb))
    assert sorted(table.values("loss")) == [3, 4, 5]
    assert len(read_runs(write(tmp_path, wandb), where=["run=b"])) == 1


@given(st.floats(1e-3, 1e15), st.sampled_from(["", "k", "M", "B", "T"]))
def test_numbers_with_suffixes(value: float, suffix: str) -> None:
    times = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[suffix]
    assert number(f"{value!r}{suffix}") == pytest.approx(value * times)
    assert number(f"{value!r}{suffix} runs") is None


@given(st.sampled_from(sorted(QUANTITIES["loss"].units)), st.sampled_from(sorted(QUANTITIES["loss"].units)))
def test_units_convert_there_and_back_or_not_at_all(first: str, second: str) -> None:
    loss = QUANTITIES["loss"]
    if first.partition("/")[2] == second.partition("/")[2]:
        assert factor(loss, first, second) * factor(loss, second, first) == pytest.approx(1.0)
    else:
        with pytest.raises(UserError, match="cannot be turned into"):
            factor(loss, first, second)


def test_ways_of_counting_are_never_converted() -> None:
    with pytest.raises(UserError, match="N in total cannot be turned into non-embedding"):
        factor(QUANTITIES["N"], "total", "non-embedding")


def test_gaps_in_columns_nobody_asked_for_are_left_out() -> None:
    table = table_of({"n": ["1", "2"], "d": ["1", "1"], "loss": ["3", "2"], "lr": ["", "1"]}, "runs")
    assert "lr" not in table and "has gaps" in table.notes[0]
