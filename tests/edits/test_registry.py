"""What every registered method must be."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

from steelyard.codecs import (
    AnyPrecisionCodec,
    BlockwiseCodec,
    CodebookCodec,
    Codec,
    GridCodec,
    IntegerCodec,
    LowRankCodec,
    OutlierCodec,
    PowerCodec,
    RotatedCodec,
    SignChainCodec,
    SumCodec,
)
from steelyard.codecs.gguf import GgufCodec
from steelyard.edits import registry
from steelyard.edits.quantize.statistics import Statistics
from steelyard.errors import UserError

from .matrices import correlated

NAMES = list(registry.methods())


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    method = registry.get(name)
    assert method.summary and not method.summary.endswith(".")
    assert inspect.getdoc(method.function)
    assert list(inspect.signature(method.function).parameters) == ["weight", "codec", "statistics", "options"]
    assert method.options.model_config.get("frozen") and method.options.model_config.get("extra") == "forbid"
    for field in method.options.model_fields.values():
        assert field.description and not field.is_required()
    weight, moment = correlated(0, 32, 64)
    base = IntegerCodec(bits=3, group_size=32)
    others: dict[str, Codec] = {"low-rank": SumCodec(base, LowRankCodec(2)), "gguf": GgufCodec("Q4_1")}
    others |= {"outliers": OutlierCodec(base, 2), "rotated": RotatedCodec(base, 32)}
    others |= dict.fromkeys(("kmeans", "additive"), CodebookCodec(2, 6, 4))
    others |= {"nupes": PowerCodec(3, 32), "gptq-levels": BlockwiseCodec("nf", 3, 32)}
    others |= {"any-precision": AnyPrecisionCodec(5, 3), "sign-chain": SignChainCodec(3, 4)}
    others |= {"lattice": GridCodec(0.5)}
    codec = others.get(name, base)
    before = weight.copy()
    for statistics in (Statistics(moment), Statistics(np.diag(moment)), Statistics()):
        first = method.function(weight, codec, statistics, method.options())
        again = method.function(weight, codec, Statistics(statistics.second_moment), method.options())
        np.testing.assert_array_equal(weight, before)
        decoded = codec.decode(first.parts(), weight.shape)
        np.testing.assert_array_equal(decoded, first.decode())
        np.testing.assert_array_equal(decoded, again.decode())
        assert sum(part.nbytes for part in first.parts().values()) == codec.nbytes(weight.shape)
        assert np.linalg.norm(decoded - weight) < 0.5 * np.linalg.norm(weight)


def test_table_lists_every_option_with_its_default() -> None:
    rows = {row["name"]: row for row in registry.table()}
    assert list(rows) == sorted(NAMES) and {"rtn", "gptq", "low-rank"} <= set(rows)
    assert {key: value for key, value in rows["gptq"]["options"][0].items() if key != "description"} == {
        "name": "damping",
        "default": 0.01,
    }


def test_unknown_names_say_what_was_meant() -> None:
    with pytest.raises(UserError, match=r"no method 'gtpq'; did you mean gptq\? available: .*rtn"):
        registry.get("gtpq")
    with pytest.raises(UserError, match=r"gptq has no option 'dampening'; did you mean damping\?"):
        registry.get("gptq").build({"dampening": 1})
    with pytest.raises(UserError, match=r"gptq: damping: .*greater than 0 \(got -1\)"):
        registry.get("gptq").build({"damping": -1})


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from steelyard.edits import registry; registry.table();"
        "print([m for m in ('numba', 'scipy', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
