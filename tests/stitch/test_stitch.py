"""Stitched folders: the parents are in them as they were, stitches do what is recorded, ways can be switched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

import steelyard as sy
from command_line import Steelyard
from steelyard.measure.evaluate import EvaluationOptions, evaluate
from steelyard.measure.texts import load_documents
from stitch.conftest import TEXT
from tiny_llama import digest, write_tiny

INPUTS = torch.from_numpy(np.random.default_rng(1).integers(0, 128, (2, 20)))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(INPUTS, use_cache=False).logits
    return found


def test_both_parents_are_in_it_bit_for_bit(stitched: Path, small: Path, large: Path) -> None:
    model = sy.load(stitched)
    for way, parent in (("first", small), ("second", large)):
        assert sy.switch(model, at=way) == way
        assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(parent)))


def test_a_stitch_is_the_parents_blocks_and_the_map(stitched: Path, small: Path, large: Path) -> None:
    model = sy.load(stitched)
    sy.switch(model, at="2:2")
    with torch.no_grad():
        entered = AutoModelForCausalLM.from_pretrained(small).model(INPUTS, output_hidden_states=True)
        second = AutoModelForCausalLM.from_pretrained(large)
        # What goes into the last norm is the state after all blocks.
        states = []
        norm = AutoModelForCausalLM.from_pretrained(small).model
        norm.norm.register_forward_pre_hook(lambda _, given: states.append(given[0]))
        norm(INPUTS)
        stitch = model.layers[model.composition.place("stitch", model.composition.joints.index((2, 2)))]
        hidden = states[0] @ stitch.weight.T + stitch.bias
        positions = torch.arange(INPUTS.shape[1])[None]
        turned = second.model.rotary_emb(hidden, position_ids=positions)
        hidden = second.model.layers[2](hidden, position_embeddings=turned, position_ids=positions)
        expected = second.lm_head(second.model.norm(hidden))
    assert entered.last_hidden_state.shape == states[0].shape
    assert torch.allclose(logits(model), expected, atol=1e-5)


def test_a_model_stitched_to_itself_at_one_depth_is_itself(large: Path, tokens: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sy.stitch(large, large, out=out, data=str(tokens), at="1:1,2:2", sequences=8, sequence_length=64)
    model = sy.load(out)
    for number, joint in enumerate(["1:1", "2:2"]):
        stitch = model.layers[model.composition.place("stitch", number)]
        assert torch.allclose(stitch.weight, torch.eye(64), atol=1e-5)
        assert torch.allclose(stitch.bias, torch.zeros(64), atol=1e-5)
        sy.switch(model, at=joint)
        assert torch.allclose(logits(model), logits(AutoModelForCausalLM.from_pretrained(large)), atol=1e-3)


def test_losses_and_operations_are_those_that_others_count(stitched: Path, tokens: Path) -> None:
    model = sy.load(stitched, attn_implementation="eager")
    ways = json.loads((stitched / "config.json").read_text())["composition"]["ways"]
    assert [way["at"] for way in ways] == ["first", "2:2", "1:1", "second"]
    assert [way["flops"] for way in ways] == sorted(way["flops"] for way in ways)
    inputs = torch.zeros((1, 32), dtype=torch.long)
    turning = 2 * 2 * 8 * 32  # both models' rotary angles, which are no product of matrices with weights
    for way in ways:
        sy.switch(model, at=way["at"])
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(inputs, use_cache=False)
        assert counter.get_total_flops() == way["flops"] * 32 + turning
    _, held_out = load_documents(str(tokens)).split()
    best = min((way for way in ways if ":" in way["at"]), key=lambda way: way["loss"])
    assert json.loads((stitched / "config.json").read_text())["composition"]["way"] == best["at"]
    measured = evaluate(stitched, None, held_out, EvaluationOptions(sequences=4, sequence_length=32))
    assert measured.loss is not None
    assert measured.loss.value == pytest.approx(best["loss"], abs=1e-12)


def test_a_budget_of_operations_chooses_the_best_way(stitched: Path) -> None:
    model = sy.load(stitched)
    ways = model.composition.ways
    for budget in (ways[0].flops, ways[1].flops, ways[2].flops + 1, 1e9):
        cheap = [way for way in ways if way.flops <= budget]
        assert sy.switch(model, flops=budget) == min(cheap, key=lambda way: way.loss).name
        assert model.config.composition["way"] == model.composition.way
    with pytest.raises(
        sy.UserError, match=f"no way takes at most 5 operations a token; .* takes {ways[0].flops:,}"
    ):
        sy.switch(model, flops=5)
    with pytest.raises(sy.UserError, match="no way '3:1' through this model; it has first, second, 1:1, 2:2"):
        sy.switch(model, at="3:1")
    with pytest.raises(sy.UserError, match="either the way to run or the operations"):
        sy.switch(model)


@pytest.mark.parametrize("way", ["first", "1:1", "2:2", "second"])
def test_it_writes_text_with_a_cache_as_without(stitched: Path, way: str) -> None:
    model = sy.load(stitched)
    sy.switch(model, at=way)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(INPUTS)
    mask[0, :4] = 0
    written = [
        model.generate(INPUTS, attention_mask=mask, use_cache=cached, **settings) for cached in (True, False)
    ]
    assert torch.equal(*written)


def test_a_saved_model_is_the_same_and_keeps_its_way(stitched: Path, tmp_path: Path) -> None:
    model = sy.load(stitched)
    sy.switch(model, at="first")
    model.save_pretrained(tmp_path / "saved")
    again = sy.load(tmp_path / "saved")
    assert again.composition.way == "first"
    assert torch.equal(logits(again), logits(model))


def test_the_verb_the_plan_and_the_record(
    steelyard: Steelyard, small: Path, large: Path, tokens: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    asked = ("stitch", small, large, "--data", tokens, "--at", "1:1,2:1", *TEXT, "--json")
    plan = json.loads(steelyard(*asked, "--dry-run").out)
    found = json.loads(steelyard(*asked, "--out", out).out)
    assert plan["bytes"] == found["bytes"] == (out / "model.safetensors").stat().st_size
    assert [f"{way['at']}: {way['flops']:,} operations a token of a prompt of 32" for way in found["ways"]] == plan[
        "notes"
    ]
    assert steelyard("verify", out).code == 0
    again.mkdir()
    assert steelyard(*asked, "--out", again / "out").code == 0
    assert digest(again / "out") == digest(out)
    weights = bytearray((out / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (out / "model.safetensors").write_bytes(weights)
    assert "has changed since it was written" in steelyard("verify", out).err


def test_a_step_of_a_recipe(steelyard: Steelyard, small: Path, large: Path, tokens: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    options = (
        f"{{second: {large}, data: {tokens}, at: '1:1', sequences: 4, eval_sequences: 2, sequence_length: 32}}"
    )
    recipe.write_text(f"model: {small}\nout: {tmp_path / 'out'}\nsteps:\n  - stitch: {options}\n")
    assert steelyard("run", recipe, "--dry-run").code == 0
    assert steelyard("run", recipe).code == 0
    assert sy.load(tmp_path / "out").composition.way == "1:1"


def test_an_encoded_parent_is_decoded(small: Path, large: Path, tokens: Path, tmp_path: Path) -> None:
    sy.quantize(small, out=tmp_path / "four", bits=4, data="none")
    options = {"data": str(tokens), "at": "1:1", "sequences": 4, "eval_sequences": 2, "sequence_length": 32}
    sy.stitch(tmp_path / "four", large, out=tmp_path / "out", **options)
    model = sy.load(tmp_path / "out")
    sy.switch(model, at="first")
    assert torch.allclose(logits(model), logits(sy.load(tmp_path / "four")), atol=1e-4)


def test_models_that_do_not_fit(
    steelyard: Steelyard, small: Path, large: Path, tokens: Path, tmp_path: Path
) -> None:
    def refused(*models: Path, at: str = "1:1") -> str:
        ended = steelyard("stitch", *models, "--at", at, "--out", tmp_path / "out", "--dry-run")
        assert ended.code == 2
        return ended.err

    other = write_tiny(tmp_path / "other", vocab_size=96)
    assert "knows 128 tokens" in refused(small, other)
    odd = tmp_path / "odd"
    odd.mkdir()
    config = json.loads((small / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    (odd / "model.safetensors").write_bytes((small / "model.safetensors").read_bytes())
    assert "has no tensor model.layers.2." in refused(odd, large)
    (odd / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    assert "is of type 'gpt2'; stitches and bridges know llama" in refused(odd, large)
    assert "there is no joint 3:1" in refused(small, large, at="3:1")
    few = steelyard(
        "stitch", small, large, "--data", tokens, "--sequences", "1", "--sequence-length", "16", "--out", "x"
    )
    assert "16 tokens determine no map from 32 channels; give more with --sequences" in few.err
    assert "'x' is no joint" in refused(small, large, at="x")
    with pytest.raises(sy.UserError, match="only models of steelyard stitch"):
        sy.switch(sy.load(small), at="first")


def test_training_moves_the_maps_alone_and_helps(
    stitched: Path, small: Path, large: Path, tokens: Path, tmp_path: Path
) -> None:
    options = {"data": str(tokens), "sequences": 8, "eval_sequences": 4, "sequence_length": 32}
    result = sy.stitch(small, large, out=tmp_path / "out", **options, steps=12, batch=4, learning_rate=0.003)
    before = {
        way["at"]: way["loss"] for way in json.loads((stitched / "steelyard.json").read_text())["plan"]["ways"]
    }
    after = {way.name: way.loss for way in result.ways}
    assert {way for way in before if after[way] == before[way]} == {"first", "second"}
    assert all(after[way] < before[way] for way in ("1:1", "2:2"))
    with sy.open(stitched) as old, sy.open(tmp_path / "out") as new:
        moved = {name for name in new.names if not np.array_equal(old.tensor(name), new.tensor(name))}
    places = [sy.load(stitched).composition.place("stitch", number) for number in (0, 1)]
    assert moved == {f"layers.{place}.{part}" for place in places for part in ("weight", "bias")}
