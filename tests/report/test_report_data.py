from __future__ import annotations

import json

import pytest
from report_sample import full

from steelyard.errors import UserError
from steelyard.report import ReportData, Request, Sizes, byte_rows
from steelyard.report.roles import family
from steelyard.spec.registry import architectures


def test_json_gives_the_same_report(data: ReportData) -> None:
    text = json.dumps(data.to_dict(), sort_keys=True)
    assert ReportData.from_dict(json.loads(text)) == data


def test_a_number_that_is_not_finite_survives_json() -> None:
    data = ReportData.from_dict({**full().to_dict(), "predicted": float("inf")})
    assert ReportData.from_dict(json.loads(json.dumps(data.to_dict()))) == data


def test_fields_of_later_versions_are_passed_over() -> None:
    assert ReportData.from_dict({**full().to_dict(), "something_new": [1]}) == full()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"sizes": {"original": 3}}, "sizes.written"),
        ({"metrics": [{"name": "loss", "new": {"value": "low"}}]}, "metrics.0.new.value"),
        ({"certificates": [{"name": "size", "status": "maybe"}]}, "certificates.0.status"),
    ],
)
def test_damaged_data_are_refused_by_field(change: dict[str, object], place: str) -> None:
    with pytest.raises(UserError, match=place):
        ReportData.from_dict({**full().to_dict(), **change})


def test_slack_and_bits() -> None:
    sizes = Sizes(original=4000, written=990, budget=1000, parameters=2000)
    assert sizes.slack == 10
    assert sizes.bits(sizes.written) == pytest.approx(3.96)
    assert Sizes(4000, 990).slack is None and Sizes(4000, 990).bits(990) is None


def test_predictions_hold_the_curve_once_and_the_result_once() -> None:
    data = full()
    labels = [pair.label for pair in data.all_predictions()]
    assert len(labels) == len(data.curve[0].points) + len(data.predictions)
    assert "this result" not in labels  # it is a point of the curve
    alone = ReportData.from_dict({**data.to_dict(), "curve": []})
    assert next(pair.label for pair in alone.all_predictions()) == "this result"
    assert ReportData(Request("m"), Sizes(2, 1), predicted=0.1).all_predictions() == ()


def test_bytes_by_role_add_up_to_the_files() -> None:
    tensors = [
        ("embed.token", 100, 30),
        ("attn.q", 40, 10),
        ("attn.qkv.bias", 3, 3),
        ("attn.q_norm", 2, 2),
        ("attn.o", 20, 8),
        ("mlp.gate", 50, 9),
        ("mlp.down.bias", 1, 1),
        ("norm.final", 4, 4),
        ("head", 60, 20),
        (None, 7, 5),
        ("attn.k", 10, 5),
    ]
    rows = byte_rows(tensors, original=320, written=110)
    assert [row.role for row in rows] == [
        "embeddings", "q, k, v", "attention out", "gate, up", "down", "norms", "head", "other", "headers, index",
    ]  # fmt: skip
    assert sum(row.original for row in rows) == 320
    assert sum(row.new for row in rows) == 110
    assert {row.role: row.new for row in rows}["q, k, v"] == 18
    assert rows[-1].original == 320 - 297


def test_every_role_of_every_architecture_has_a_family() -> None:
    roles = {rule.role for architecture in architectures().values() for rule in architecture.rules}
    assert [role for role in sorted(roles) if family(role) == "other"] == ["buffer"]
