"""PD-Quant on a small model: what is chosen, against a brute force, and what the objective does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize._rounded import Rounded
from steelyard.edits.quantize.pd_quant import Begun, Outcome, PdQuantOptions, pd_quant
from steelyard.edits.quantize.rtn import round_to_nearest
from steelyard.errors import UserError
from steelyard.measure.model import Model, open_model
from steelyard.measure.windows import TokenSet, Window
from tiny_llama import CONFIG, write_tiny

LENGTH = 16
Case = tuple[Path, Model, dict[str, Begun], TokenSet]


def windows(count: int, seed: int) -> TokenSet:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(3, CONFIG["vocab_size"], (count, LENGTH + 1))
    made = tuple(Window(n, row[:-1].copy(), row[1:].copy(), None) for n, row in enumerate(tokens))
    return TokenSet(("text",), made, "drawn", ("text",))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = write_tiny(tmp_path_factory.mktemp("pd") / "model")
    model = open_model(folder)
    names = [name for name in model.source.names if "proj" in name]
    codec = IntegerCodec(2, 16, True, "F32")
    weights = {name: np.asarray(model.source.tensor(name), np.float32) for name in names}
    begun = {name: Begun(weight, round_to_nearest(weight, codec)) for name, weight in weights.items()}
    return folder, model, begun, windows(6, 0)


def divergence(folder: Path, matrices: Mapping[str, np.ndarray], data: TokenSet) -> float:
    """KL(original || changed) with transformers' own model, in float32."""
    inputs = torch.from_numpy(np.stack([window.inputs for window in data.windows]))
    found = []
    for changes in ({}, matrices):
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            for name, matrix in changes.items():
                module.get_parameter(name).copy_(torch.from_numpy(np.array(matrix)))
            found.append(module(inputs).logits.log_softmax(-1).flatten(0, 1))
    return float(torch.nn.functional.kl_div(found[1], found[0], log_target=True, reduction="batchmean"))


def decoded(outcome: Mapping[str, Rounded]) -> dict[str, np.ndarray]:
    return {name: rounded.decode() for name, rounded in outcome.items()}


def judged(data: TokenSet) -> TokenSet:
    """The second of the two batches, which is not descended on."""
    return replace(data, windows=data.windows[3:])


def run(case: Case, **options: object) -> Outcome:
    _, model, begun, data = case
    values = {"shares": (), "steps": 0, "tokens": 3 * LENGTH, "judges": 0.5, **options}
    return pd_quant(model, begun, data, PdQuantOptions.model_validate(values))


def test_without_steps_nothing_changes_and_the_objective_is_the_divergence(case: Case) -> None:
    folder, _, begun, data = case
    outcome = run(case, local=0.0)
    for name, item in begun.items():
        np.testing.assert_array_equal(outcome.rounded[name].codes, item.rounded.codes)
        np.testing.assert_array_equal(outcome.rounded[name].scale, item.rounded.scale)
    assert outcome.before == outcome.after
    first = {name: matrix for name, matrix in decoded(outcome.rounded).items() if ".layers.0." in name}
    assert outcome.before[0] == pytest.approx(divergence(folder, first, judged(data)), rel=1e-3)
    assert outcome.before[1] == pytest.approx(divergence(folder, decoded(outcome.rounded), judged(data)), rel=1e-3)


def test_the_scale_is_the_best_of_those_tried(case: Case) -> None:
    folder, model, begun, data = case
    name, shares = "model.layers.1.mlp.down_proj.weight", (0.8, 0.9, 1.1)
    options = PdQuantOptions(shares=shares, steps=0, tokens=3 * LENGTH, judges=0.5, local=0.0)
    outcome = pd_quant(model, {name: begun[name]}, data, options)
    codec, item = begun[name].rounded.codec, begun[name]
    losses = {}
    for share in (1.0, *shares):
        scale = (item.rounded.scale * np.float32(share)).astype(np.float32)
        codes = codec.quantize_with(item.weight, np.abs(scale)) if (scale > 0).all() else None
        if codes is None:  # negative scales, by hand
            wide = np.repeat(scale, 16, axis=1)
            codes = np.clip(np.rint(item.weight / wide), *codec.code_range).astype(np.int8)
        changed = replace(item.rounded, codes=codes, scale=scale)
        losses[share] = divergence(folder, {name: changed.decode()}, judged(data))
    best = min(losses, key=losses.__getitem__)
    np.testing.assert_allclose(outcome.rounded[name].scale, item.rounded.scale * np.float32(best), rtol=1e-6)
    assert outcome.after[1] == pytest.approx(losses[best], rel=1e-3)


def test_descent_lowers_the_divergence_and_keeps_the_codec(case: Case) -> None:
    folder, _, begun, data = case
    before = divergence(folder, {name: item.rounded.decode() for name, item in begun.items()}, data)
    outcome = run(case, steps=24, travel=0.5, shares=(0.9,), local=0.2)
    assert all(after <= first for first, after in zip(outcome.before, outcome.after, strict=True))
    after = divergence(folder, decoded(outcome.rounded), data)
    assert after < 0.95 * before
    for rounded in outcome.rounded.values():
        codec = rounded.codec
        np.testing.assert_array_equal(codec.decode(rounded.parts(), rounded.codes.shape), rounded.decode())


def test_the_block_alone_can_be_the_objective_and_runs_repeat(case: Case) -> None:
    folder, _, begun, data = case
    first, again = (run(case, steps=2, prediction=False) for _ in range(2))
    assert all(after <= before for before, after in zip(first.before, first.after, strict=True))
    for name, rounded in first.rounded.items():
        np.testing.assert_array_equal(again.rounded[name].codes, rounded.codes)
        np.testing.assert_array_equal(again.rounded[name].scale, rounded.scale)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    left: list[torch.Tensor] = []
    module.model.layers[0].register_forward_hook(lambda _, inputs, output: left.append(output))
    inputs = torch.from_numpy(np.stack([window.inputs for window in judged(data).windows]))
    with torch.no_grad():
        module(inputs)
        for name, item in begun.items():
            module.get_parameter(name).copy_(torch.from_numpy(item.rounded.decode()))
        module(inputs)
    wanted, found = (states.flatten(0, 1) for states in left)
    error = (found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert first.before[0] == pytest.approx(float(error), rel=1e-3)


def test_correction_moves_targets_to_the_statistics_of_all_windows(case: Case) -> None:
    from steelyard.edits.quantize import _prediction
    from steelyard.measure.activations import ActivationStore
    from steelyard.measure.runner import BlockRunner

    _, model, _, data = case
    options = PdQuantOptions(correction=1.0, prediction=False)
    runner, batches = BlockRunner(model), data.batches(2 * LENGTH)
    with ActivationStore() as store:
        calls = runner.forward(batches, store, keep=True)
        for number in range(len(batches)):
            store.put((runner.depth, number), store.get(number))
        entering = [store.get((0, number)) for number in range(len(batches))]
        found = _prediction._windows(runner, batches, calls, store, entering, 1, options)
        every = torch.cat([store.get((2, number)).flatten(0, 1) for number in range(len(batches))])
    for window in found:
        target = window.target.flatten(0, 1)
        torch.testing.assert_close(target.mean(0), every.mean(0), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(target.std(0), every.std(0), rtol=1e-3, atol=1e-4)
        assert window.end is None


def test_what_it_cannot_round_is_refused(case: Case) -> None:
    _, model, begun, data = case
    with pytest.raises(UserError, match="predicts nothing"):
        pd_quant(replace(model, task="encoder"), begun, data)
    with pytest.raises(UserError, match="two windows"):
        pd_quant(model, begun, replace(data, windows=data.windows[:1]))
    item = next(iter(begun.values()))
    wrong = replace(item, rounded=replace(item.rounded, codec=None))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rounds integers"):
        pd_quant(model, {"w": wrong}, data)


def test_importing_the_options_does_not_import_torch() -> None:
    import subprocess

    code = "import sys, steelyard.edits.quantize.pd_quant; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
