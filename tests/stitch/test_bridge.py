"""Bridges: nothing but them is trained, and until they put something out the anchor is as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import steelyard as sy
from command_line import Steelyard
from steelyard.edits.stitch.bridge import _composition
from steelyard.edits.stitch.options import BridgeOptions
from steelyard.edits.stitch.parents import Composed, open_parents
from steelyard.edits.stitch.training import network, untrained
from steelyard.formats.native.composed import Bridge
from stitch.conftest import TEXT

INPUTS = torch.from_numpy(np.random.default_rng(2).integers(0, 128, (2, 18)))


def logits(model: torch.nn.Module, inputs: torch.Tensor = INPUTS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(inputs, use_cache=False).logits
    return found


def test_without_output_the_anchor_is_as_it_was(
    steelyard: Steelyard, large: Path, small: Path, tokens: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ("bridge", large, small, "--data", tokens, "--steps", "0", *TEXT, "--json")
    plan = json.loads(steelyard(*asked, "--dry-run").out)
    found = json.loads(steelyard(*asked, "--out", out).out)
    assert plan["bytes"] == found["bytes"] == (out / "model.safetensors").stat().st_size
    assert found["joints"] == ["1:1", "3:2"] and found["history"] == []
    assert found["losses"]["bridged"] == found["losses"]["anchor"] != found["losses"]["augmenting"]
    assert torch.equal(logits(sy.load(out)), logits(AutoModelForCausalLM.from_pretrained(large)))


def test_only_bridges_are_trained(large: Path, small: Path) -> None:
    with open_parents(large, small) as parents:
        composition = _composition(parents, BridgeOptions(), identify=False)
        made = untrained(composition, 0)
        made |= {name: np.full_like(array, 0.01) for name, array in made.items() if ".out." in name}
        model = network(Composed(parents, composition, made))
    loss = model(INPUTS, labels=INPUTS).loss
    loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in composition.added()}
    assert all(float(dict(model.named_parameters())[name].grad.abs().max()) > 0 for name in moved)
    # Of the augmenting model there is no more than the bridges need.
    assert not any(
        name.startswith(("second.norm", "second.lm_head")) for name in made | dict(model.named_parameters())
    )


def test_training_helps_and_leaves_both_models_alone(bridged: Path, large: Path, small: Path) -> None:
    record = json.loads((bridged / "steelyard.json").read_text())
    assert record["history"][-1] < record["history"][0]
    assert record["losses"]["bridged"] < record["losses"]["anchor"]
    composition = sy.load(bridged).composition
    with sy.open(bridged) as made, sy.open(large) as anchor, sy.open(small) as other:
        for side, parent, blocks in (("first", anchor, 3), ("second", other, 2)):
            for block in range(blocks):
                place = composition.place(side, block)
                for part in ("self_attn.k_proj", "mlp.down_proj", "input_layernorm"):
                    theirs = parent.tensor(f"model.layers.{block}.{part}.weight")
                    assert np.array_equal(made.tensor(f"layers.{place}.{part}.weight"), theirs)


def test_no_position_sees_a_later_one(bridged: Path) -> None:
    model = sy.load(bridged)
    changed = INPUTS.clone()
    changed[:, 11] = (changed[:, 11] + 1) % 128
    before, after = logits(model), logits(model, changed)
    assert torch.allclose(before[:, :11], after[:, :11], atol=1e-6)
    assert not torch.allclose(before[:, 11], after[:, 11], atol=1e-3)


def test_it_writes_text_with_a_cache_as_without(bridged: Path) -> None:
    model = sy.load(bridged)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(INPUTS)
    mask[1, :3] = 0
    written = [
        model.generate(INPUTS, attention_mask=mask, use_cache=cached, **settings) for cached in (True, False)
    ]
    assert torch.equal(*written)


def test_a_bridge_is_the_papers_cross_attention() -> None:
    draw = np.random.default_rng(4)
    width, other, heads, length = 6, 4, 2, 5
    bridge = Bridge(width, other, heads).double()
    anchor, states = draw.standard_normal((length, width)), draw.standard_normal((length, other))
    given = torch.from_numpy(np.concatenate([anchor, states], axis=1))[None]
    with torch.no_grad():
        found = bridge(given)[0].numpy()
    weights = {name: tensor.detach().numpy() for name, tensor in bridge.named_parameters()}
    projected = states @ weights["project.weight"].T + weights["project.bias"]
    attended = []
    for head in range(heads):
        rows = slice(head * width // heads, (head + 1) * width // heads)
        query = anchor @ weights["query.weight"][rows].T
        key, value = (projected @ weights[f"{part}.weight"][rows].T for part in ("key", "value"))
        scores = query @ key.T / np.sqrt(width / heads)
        scores = np.where(np.tril(np.ones((length, length), bool)), np.exp(scores), 0)
        attended.append(scores / scores.sum(axis=1, keepdims=True) @ value)
    expected = anchor + np.concatenate(attended, axis=1) @ weights["out.weight"].T
    assert np.allclose(found[:, :width], expected, atol=1e-12)
    assert np.array_equal(found[:, width:], states)


def test_a_step_of_a_recipe(steelyard: Steelyard, large: Path, small: Path, tokens: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    options = f"{{second: {small}, data: {tokens}, steps: 1, sequences: 4, eval_sequences: 2, sequence_length: 32}}"
    recipe.write_text(f"model: {large}\nout: {tmp_path / 'out'}\nsteps:\n  - bridge: {options}\n")
    assert steelyard("run", recipe, "--dry-run").code == 0
    assert steelyard("run", recipe).code == 0
    assert steelyard("verify", tmp_path / "out").code == 0
    assert sy.load(tmp_path / "out").composition.kind == "bridge"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--heads", "3"), "3 heads do not divide the anchor's 64 channels"),
        (("--at", "1:2,2:1"), "the bridges 1:2 and 2:1 cross"),
        (("--at", "4:1"), "there is no joint 4:1: the first number is 1 to 3, the second 1 to 2"),
        (("--learning-rate", "0"), "--learning-rate"),
    ],
)
def test_bridges_that_cannot_be(
    steelyard: Steelyard, large: Path, small: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = steelyard("bridge", large, small, *arguments, "--out", tmp_path / "out")
    assert ended.code == 2 and said in ended.err
