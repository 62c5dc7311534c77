"""aTLAS: learned coefficients against what they must be, on a tiny model."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.merge.experts import load, write_experts

from steelyard.edits.merge.atlas import AtlasOptions, Coefficients, combined, learn
from steelyard.edits.merge.candidates import Candidates
from steelyard.edits.merge.inputs import StoredModel
from steelyard.errors import UserError
from steelyard.measure.model import open_model
from steelyard.measure.windows import TokenSet, Window


def windows(seed: int = 0, vocabulary: int = 64) -> TokenSet:
    """Four windows of drawn tokens."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, vocabulary, (4, 13))
    return TokenSet(("d",), tuple(Window(0, row[:-1], row[1:], None) for row in tokens), "drawn", ("d",))


def opened(stack: ExitStack, base: Path, experts: dict[str, str]) -> tuple[StoredModel, dict[str, StoredModel]]:
    models = [stack.enter_context(_closing(str(place))) for place in (base, *experts.values())]
    return models[0], dict(zip(experts.values(), models[1:], strict=True))


class _closing:
    def __init__(self, location: str) -> None:
        self.model = StoredModel.open(location)

    def __enter__(self) -> StoredModel:
        return self.model

    def __exit__(self, *raised: object) -> None:
        self.model.close()


def test_zero_is_the_base_and_one_of_one_is_the_expert(tmp_path: Path) -> None:
    base, experts = write_experts(tmp_path, count=2, dtype="float32")
    with ExitStack() as stack:
        first, others = opened(stack, base, experts)
        names = first.names
        for value, expected in ((0.0, load(base)), (1.0, load(experts["task0"]))):
            found = Coefficients(str(base), {experts["task0"]: dict.fromkeys(names, value)}, ())
            made = combined(first, others, found)
            for name in names:
                np.testing.assert_allclose(made.tensor(name), expected[name], rtol=1e-6, atol=1e-7)


def test_first_step_follows_the_slope_found_by_differences(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base, experts = write_experts(tmp_path, count=1, dtype="float32")
    data, (expert,) = windows(), experts.values()
    options = AtlasOptions(steps=1, rate=0.01, each="model")
    with ExitStack() as stack:
        first, others = opened(stack, base, experts)
        found = learn(first, others, open_model(base), {"t": data}, options)
    module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    vectors = {name: load(expert)[name] - value for name, value in load(base).items()}

    def loss(share: float) -> float:
        state = {name: torch.from_numpy(value + share * vectors[name]) for name, value in load(base).items()}
        module.load_state_dict(state, strict=False)
        module.tie_weights()
        inputs = torch.from_numpy(np.stack([window.inputs for window in data.windows]))
        labels = torch.from_numpy(np.stack([window.labels for window in data.windows]))
        with torch.no_grad():
            return float(
                torch.nn.functional.cross_entropy(module(input_ids=inputs).logits.flatten(0, 1), labels.flatten())
            )

    assert found.losses[0] == pytest.approx(loss(0.0), rel=1e-5)
    slope = (loss(0.05) - loss(-0.05)) / 0.1
    values = set(found.values[expert].values())
    # Adam's first step is the rate against the sign of the slope.
    assert len(values) == 1 and values.pop() == pytest.approx(-0.01 * np.sign(slope), rel=1e-3)


@pytest.mark.parametrize("objective", ["supervised", "entropy"])
def test_learning_lowers_what_it_is_judged_by_and_changes_only_what_it_may(tmp_path: Path, objective: str) -> None:
    base, experts = write_experts(tmp_path, count=2, dtype="float32", size=0.2)
    options = AtlasOptions(steps=12, objective=objective, only=("mlp", "self_attn"), rate=0.1)
    with ExitStack() as stack:
        first, others = opened(stack, base, experts)
        found = learn(first, others, open_model(base), {"t": windows()}, options)
        again = learn(first, others, open_model(base), {"t": windows()}, options)
        may = [name for name in first.names if "mlp" in name or "self_attn" in name]
    assert found.losses[-1] < found.losses[0]
    assert found.count == 2 * len(may) and set(found.values[experts["task1"]]) == set(may)
    assert found.values == again.values
    recipe = found.recipe()
    assert recipe["merge_method"] == "task_arithmetic"
    assert recipe["models"][0]["parameters"]["weight"][-1] == {"value": 0.0}


def test_no_tensor_to_learn_is_refused(tmp_path: Path) -> None:
    base, experts = write_experts(tmp_path, count=1)
    with ExitStack() as stack:
        first, others = opened(stack, base, experts)
        with pytest.raises(UserError, match="no tensor's name holds any of nothing"):
            learn(first, others, open_model(base), {"t": windows()}, AtlasOptions(only=("nothing",)))


def test_the_recipe_makes_what_was_learned(tmp_path: Path) -> None:
    base, experts = write_experts(tmp_path, count=2, dtype="float32")
    draw = np.random.default_rng(5)
    with ExitStack() as stack, Candidates() as candidates:
        first, others = opened(stack, base, experts)
        some = first.names[::2]
        values = {place: {name: round(float(draw.normal()), 4) for name in some} for place in experts.values()}
        found = Coefficients(str(base), values, ())
        made, merged = combined(first, others, found), candidates.source(found.recipe())
        for name in first.names:
            np.testing.assert_allclose(merged.tensor(name), made.tensor(name), rtol=1e-5, atol=1e-6)
