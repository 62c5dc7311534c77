from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.least import least_payloads, sure_payloads
from steelyard.budget.options import FitOptions
from steelyard.budget.planning import Planner
from steelyard.codecs import EntropyCodec, GridCodec
from steelyard.errors import UserError
from steelyard.formats import get
from steelyard.jobs import open_model


@settings(max_examples=150, deadline=None)
@given(arrays.arrays(np.float32, (24, 40), elements=st.sampled_from([0.0, 0.01, 1.0, -1.0, 2.0, -2.5, 4.1, 30.0])))
def test_coarse_codes_take_no_more_than_is_sure(matrix: np.ndarray) -> None:
    """1.25 bits a weight, and the coder's tables, whatever the weights are."""
    grid = GridCodec(4.0)
    payload = EntropyCodec(grid).fitted(grid.encode(matrix), matrix.shape).payload
    assert payload is not None and payload <= matrix.size * 1.25 / 8 + 128


@pytest.mark.parametrize("name", ["tiny_llama", "tied_llama"])
@pytest.mark.parametrize("effort", ["quick", "good", "best"])
def test_the_smallest_size_is_known_before_and_still_there_after(
    request: pytest.FixtureRequest, name: str, effort: str
) -> None:
    options = FitOptions.model_validate({"ratio": 1, "data": "none", "effort": effort})
    with open_model(request.getfixturevalue(name)) as opened:
        planner = Planner(opened, get("steelyard"), options)
        before = planner.smallest_size()
        with pytest.raises(UserError, match=f"smallest feasible size is {before:,} bytes .* at grid "):
            planner.require_feasible(before - 1)
        planner.require_feasible(before)
        payloads = least_payloads(opened.checkpoint, opened.spec, planner.menu)
        sure = sure_payloads(opened.spec, planner.menu)
        assert payloads.keys() == sure.keys() and all(payloads[key] <= sure[key] for key in sure)
        planner.learn(KnowledgeBase(None), {})
        assert planner.plan(before, {}).solution.nbytes <= before
        assert planner.smallest_size() <= before


def test_a_calibration_cannot_take_the_smallest_size_away(tmp_path: Path, tiny_llama: Path) -> None:
    """Rows that matter get finer steps, and more bytes, than codes made without a calibration have."""
    from steelyard.budget.learning import learn

    texts = tmp_path / "tokens.npy"
    np.save(texts, np.random.default_rng(3).integers(0, 40, 600))
    options = FitOptions.model_validate({"ratio": 1, "data": str(texts), "effort": "quick"})
    with open_model(tiny_llama) as opened:
        planner = Planner(opened, get("steelyard"), options)
        before = planner.smallest_size()
        learned = learn(opened, options, tmp_path)
        planner.learn(KnowledgeBase(learned.calibration, opened.spec.ties), {})
        assert planner.plan(before, {}).solution.nbytes <= before
