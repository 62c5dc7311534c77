"""`steelyard weigh` as a user calls it: on real input, then on bad input."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import steelyard as sy
from steelyard import reference

Weigh = Callable[..., str]


@pytest.fixture
def weigh(steelyard: Callable[..., Any]) -> Weigh:
    """The output of `steelyard weigh`, which must succeed."""

    def run(*words: object) -> str:
        ended = steelyard("weigh", *words)
        assert ended.code == 0, ended.err
        return ended.out

    return run


@pytest.fixture
def refused(steelyard: Callable[..., Any]) -> Weigh:
    """What `steelyard weigh` says of a user's mistake: one line, exit code 2."""

    def run(*words: object) -> str:
        ended = steelyard("weigh", *words)
        assert ended.code == 2 and ended.err.count("\n") == 1 and not ended.out
        return ended.err

    return run


def config() -> dict:
    return json.loads((reference.path() / "config.json").read_text())


def test_every_question_at_once_as_plain_data(weigh: Weigh) -> None:
    words = ["reference", "--json", "--context", "64", "--batch", "2", "--train", "adamw,batch=2,sequence=64"]
    data = json.loads(weigh(*words, "--on", "a100-80gb", "--fit-on", "t4", "--slo", "ttft=1s,tpot=1s"))
    assert data["model"] == "reference" and data["parameters"] == 6_557_440
    assert data["weight_bytes"] == (reference.path() / "model.safetensors").stat().st_size
    # 7 blocks, 4 heads of 32 for keys and for values, 2 bytes each.
    assert data["cache"]["bytes"] == 2 * 7 * 4 * 32 * 2 * 64 * 2
    assert data["compute"]["training"]["total"] == 3 * data["compute"]["prefill"]["total"]
    assert data["training"]["parts"]["weights"] == 2 * 6_557_440
    assert data["serving"]["memory"]["fits"] and data["fit_on"]["largest_batch"] > 0
    prices = [offer["dollars_per_hour"] for offer in data["slo"]["offers"] if offer["dollars_per_hour"]]
    assert prices and prices == sorted(prices)


def test_the_same_for_people(weigh: Weigh) -> None:
    shown = weigh("reference", "--context", "64", "--train", "sgd,batch=1,sequence=32", "--layers")
    for words in ("mlp.gate", "by layer", "6 N D says", "kept of the context", "gradients", "tied: lm_head"):
        assert words in shown


def test_a_line_for_each_tensor_as_csv(weigh: Weigh) -> None:
    rows = list(csv.DictReader(io.StringIO(weigh("reference", "--csv"))))
    assert sum(int(row["parameters"]) for row in rows) == 6_557_440
    assert len(rows) == 65 and {row["encoding"] for row in rows} == {"BF16"}


def test_page_and_pictures(tmp_path: Path, weigh: Weigh) -> None:
    pytest.importorskip("matplotlib")
    shown = weigh("reference", "--html", tmp_path / "page.html", "--png", tmp_path / "figures", "--context", "128")
    page = (tmp_path / "page.html").read_text()
    assert "6,557,440 parameters" in page and "operations" in page and "https:" not in page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"treemap.png", "memory.png"} and shown.count("wrote ") == 3


def test_a_quantized_folder_against_its_original(tmp_path: Path, weigh: Weigh) -> None:
    out = tmp_path / "small"
    sy.quantize("reference", out=out, bits=4)
    data = json.loads(weigh(out, "--json"))
    assert data["parameters"] == 6_557_440 and data["weight_bytes"] == (out / "model.safetensors").stat().st_size
    # Groups of 64 with a 16-bit scale each.
    assert data["quantized_bits_per_weight"] == pytest.approx(4.25, abs=0.05)
    assert (
        data["bytes"]["scales"] > 0
        and sum(v for k, v in data["bytes"].items() if k != "total") == data["weight_bytes"]
    )
    found = json.loads(weigh(out, "--against", "reference", "--json"))
    kinds = {item["kind"] for item in found["differences"]}
    assert kinds == {"type"} and found["equal"] == 65 - len(found["differences"])
    assert found["bytes"] == [reference.path().joinpath("model.safetensors").stat().st_size, data["weight_bytes"]]


def test_values_are_compared_by_hash(tmp_path: Path, copied: Callable[[], Path], weigh: Weigh) -> None:
    changed = copied()
    file = changed / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    found = json.loads(weigh(changed, "--against", "reference", "--json"))
    assert [item["kind"] for item in found["differences"]] == ["values"] and found["equal"] == 64
    shown = weigh("reference", "--against", "reference")
    assert "65 tensors are the same, 0 differ" in shown


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[], Path]:
    import shutil

    return lambda: Path(shutil.copytree(reference.path(), tmp_path / "copied"))


def test_a_config_alone_and_weights_alone(tmp_path: Path, copied: Callable[[], Path], weigh: Weigh) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    alone = json.loads(weigh(tmp_path / "config.json", "--json", "--dtype", "F32"))
    assert alone["source"] == "config" and alone["bytes"]["weights"] == 4 * 6_557_440
    bare = copied()
    (bare / "config.json").unlink()
    data = json.loads(weigh(bare, "--json"))
    assert data["parameters"] == 6_557_440 and not data["table"]


def test_specs_are_edited_and_weighed_again() -> None:
    wider = sy.spec({**config(), "intermediate_size": 1024})
    more = sy.weigh(wider).parameters.unique - sy.weigh("reference").parameters.unique
    assert more == 7 * 3 * 256 * 256
    assert "<svg" in sy.weigh("reference")._repr_html_()


BAD_CONFIGS = [
    ({"num_key_value_heads": 3}, "8 attention heads cannot share 3"),
    ({"hidden_size": -5}, "hidden_size must be a whole number of at least 1, got -5"),
    ({"num_hidden_layers": 10**12}, "asks for more than 2,000,000 tensors"),
    ({"dtype": "float7"}, "dtype must be one of"),
    ({"model_type": "released_tomorrow"}, "no table describes architecture 'released_tomorrow'"),
]


@pytest.mark.parametrize(("change", "words"), BAD_CONFIGS)
def test_bad_configs(change: dict, words: str, tmp_path: Path, refused: Weigh) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**config(), **change}))
    assert words in refused(tmp_path)


def test_bad_headers(tmp_path: Path, refused: Weigh) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    file = tmp_path / "model.safetensors"
    header = json.dumps({"a": {"dtype": "Q9", "shape": [4], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "unknown dtype 'Q9'" in refused(tmp_path)
    file.write_bytes(struct.pack("<Q", 100_000_000))
    os.truncate(file, 100_000_008)
    assert "does not start with" in refused(tmp_path)


BAD_WORDS = [
    (["--train", "nonsense=3"], "'nonsense=3' is not understood"),
    (["--train", "batch=many"], "batch must be a whole number, got 'many'"),
    (["--on", "h1000"], "no device is called 'h1000'"),
    (["--slo", "speed=1"], "is no objective"),
    (["--dtype", "F16"], "holds weights in types of their own"),
    (["--context", "8", "--cache-bits", "0"], "must be at least 1"),
    (["--nvme", "much", "--trainable-on", "t4"], "much"),
]


@pytest.mark.parametrize(("words", "said"), BAD_WORDS)
def test_bad_words(words: list[str], said: str, refused: Weigh) -> None:
    assert said in refused("reference", *words)


def test_without_a_model(weigh: Weigh, refused: Weigh) -> None:
    assert "give a MODEL" in refused()
    assert "billion parameters" in weigh("--trainable-on", "a100-80gb", "--host-memory", "512GiB", "--nvme", "2TB")
