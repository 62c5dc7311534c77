"""Tables of parametrizations against exponents derived here, exact fractions, and a float64 AdamW."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import steelyard as sy
from command_line import Steelyard
from steelyard.forecast.parametrize import Parametrization, Row, Rule, rules
from steelyard.forecast.parametrize.rule import Part

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "initializer_range": 0.05,
}
# Small keys for every kind of model that the rules cover; other keys keep the defaults of the tables.
KINDS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "tied llama": {**LLAMA, "tie_word_embeddings": True},
    "biased llama": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4},
    "bert": {"model_type": "bert", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4},
    "vit": {"model_type": "vit", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4},
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4},
    "gemma2": {**LLAMA, "model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 16},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 16},
    "mixtral": {**LLAMA, "model_type": "mixtral", "num_local_experts": 4},
    "opt": {
        "model_type": "opt",
        "hidden_size": 64,
        "ffn_dim": 96,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 64,
    },
}
PARTS: tuple[Part, ...] = ("input", "hidden", "output", "vector")
MUP_LIKE = ("mup", "depth-mup", "completep")


def wider(config: dict[str, Any], times: int, deeper: int = 1) -> dict[str, Any]:
    grown = dict(config)
    for key in (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "n_embd",
        "n_head",
    ):
        if key in config:
            grown[key] = config[key] * times
    for key in ("num_hidden_layers", "n_layer"):
        if key in config:
            grown[key] = config[key] * deeper
    return grown


def by_name(table: Parametrization) -> dict[str, Row]:
    return {row.name: row for row in table.rows}


# What a layer of n inputs needs, in terms of the tensor in use (forward times what is stored), as powers of n.
# Sizes: n independent terms of deviation s add up to sqrt(n) s. Steps: Adam moves every element by the rate, in
# line with the input, so n of them add up to n times the rate. Both have to be free of n where n is a width; logits
# begin as 1/sqrt(n). Gradients of logits are free of n and reach everything below through the head, as 1/n.
IN_USE_INIT = {"input": Fraction(0), "hidden": Fraction(-1, 2), "output": Fraction(-1)}
IN_USE_RATE = {"input": Fraction(0), "hidden": Fraction(-1), "output": Fraction(-1), "vector": Fraction(0)}
GRADIENT = {"input": Fraction(-1), "hidden": Fraction(-1), "output": Fraction(0), "vector": Fraction(-1)}


@pytest.mark.parametrize("name", [*MUP_LIKE, "u-mup"])
def test_products_are_the_exponents_of_infinite_width(name: str) -> None:
    rule = rules()[name]
    for part in PARTS:
        powers = rule.powers(part)
        if part != "vector":
            assert powers.init + powers.forward == IN_USE_INIT[part]
        # u-muP's own choice: embeddings learn as 1/sqrt(width) (optim.py of unit-scaling).
        expected = Fraction(-1, 2) if (name, part) == ("u-mup", "input") else IN_USE_RATE[part]
        assert powers.rate + powers.forward == expected
        # A stored tensor's gradient is that of the one in use times the multiplier, and epsilon stays beside it.
        assert powers.epsilon == GRADIENT[part] + powers.forward
        # What decay takes off in a step is rate times decay; independent decay is divided by the rate as well.
        if part != "vector":
            assert powers.decay + powers.rate == 0
    assert rule.attention == -1


def test_the_standard_parametrization_breaks_them() -> None:
    rule = rules()["standard"]
    assert rule.hidden.rate + rule.hidden.forward != IN_USE_RATE["hidden"]
    assert rule.output.rate + rule.output.forward != IN_USE_RATE["output"]


@pytest.mark.parametrize("name", ["depth-mup", "completep", "u-mup"])
def test_the_steps_of_all_blocks_add_up_to_the_same_at_every_depth(name: str) -> None:
    rule = rules()[name]
    # L blocks move the stream in line with each other by branch times rate; their initial values add up in squares.
    assert 1 + rule.branch + rule.block.rate == 0
    assert 1 + 2 * rule.branch <= 0
    assert rule.block.epsilon == rule.branch


def test_u_mups_stream_is_a_plain_sum_over_the_root_of_the_depth() -> None:
    draw = np.random.default_rng(5)
    for depth in (1, 3, 8):
        maps = [draw.standard_normal((6, 6)) for _ in range(2 * depth)]
        start = draw.standard_normal(6)
        skip, plain = start.copy(), start.copy()
        for index, matrix in enumerate(maps):
            attention, mlp = (index + 1) // 2, index // 2
            tau = 1 / math.sqrt(depth + attention + mlp)  # unit_scaling's rule with both of its ratios at one
            skip = (tau * np.tanh(matrix @ skip / np.linalg.norm(skip)) + skip) / math.sqrt(1 + tau**2)
            plain = plain + depth**-0.5 * np.tanh(matrix @ plain / np.linalg.norm(plain))
        np.testing.assert_allclose(skip / np.linalg.norm(skip), plain / np.linalg.norm(plain), atol=1e-13)


# BERT's norms come after the sum, so rules for depth refuse it.
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in KINDS
        for name in ("standard", *MUP_LIKE)
        if kind != "bert" or name in ("standard", "mup")
    ],
)
def test_a_model_as_large_as_its_base_is_left_alone(kind: str, name: str) -> None:
    table = sy.parametrize(KINDS[kind], KINDS[kind], name)
    assert len(table.rows) > 10 and table.attention == 1 and table.depth == 1
    for row in table.rows:
        assert (row.init, row.rate, row.epsilon, row.forward) == (1, 1, 1, 1), row
        assert row.decay == (0 if row.part == "vector" else 1)
        assert row.std == (0 if row.part == "vector" else table.std)


def test_parts_by_hand() -> None:
    table = by_name(sy.parametrize(wider(KINDS["mixtral"], 4), KINDS["mixtral"], "mup"))
    block = "model.layers.1."
    expert = next(name for name, row in table.items() if row.role == "expert.down" and row.name.startswith(block))
    router = next(name for name, row in table.items() if row.role == "router" and row.name.startswith(block))
    found = {
        name: (table[name].part, table[name].width, table[name].init, table[name].rate, table[name].forward)
        for name in (
            "model.embed_tokens.weight",
            f"{block}self_attn.k_proj.weight",
            expert,
            router,
            "lm_head.weight",
        )
    }
    assert found == {
        "model.embed_tokens.weight": ("input", 4, 1, 1, 1),
        f"{block}self_attn.k_proj.weight": ("hidden", 4, 0.5, 0.25, 1),
        expert: ("hidden", 4, 0.5, 0.25, 1),
        router: ("output", 4, 1, 1, 0.25),
        "lm_head.weight": ("output", 4, 1, 1, 0.25),
    }
    # GPT-2 stores its matrices the other way round: [in, out], with four times as many inputs to the last.
    gpt2 = sy.parametrize({**wider(KINDS["gpt2"], 2), "n_inner": 1024}, KINDS["gpt2"], "mup")
    down = by_name(gpt2)["transformer.h.0.mlp.c_proj.weight"]
    assert down.shape == (1024, 128) and down.width == 4 and down.rate == 0.25
    assert by_name(gpt2)["transformer.wpe.weight"].part == "input"


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_groups_of_the_reference_code_for_depth(alpha: float) -> None:
    # EleutherAI/nanoGPT-mup, branch completep: rates 1, d, w d, d, 1, decay over w; w = 1/m, d = m_L^(alpha-1).
    config = KINDS["gpt2"]
    found = by_name(sy.parametrize(wider(config, 4, 8), config, {0.5: "depth-mup", 1.0: "completep"}[alpha]))
    w, d = 1 / 4, 8 ** (alpha - 1)
    rates = {
        "transformer.wte.weight": 1,
        "transformer.h.3.ln_1.weight": d,
        "transformer.h.3.attn.c_attn.weight": w * d,
        "transformer.h.3.attn.c_attn.bias": d,
        "transformer.ln_f.weight": 1,
    }
    assert {name: found[name].rate for name in rates} == pytest.approx(rates)
    assert found["transformer.h.3.attn.c_attn.weight"].decay == pytest.approx(1 / w)
    assert found["transformer.h.3.attn.c_attn.weight"].epsilon == pytest.approx(w * 8**-alpha)
    assert found["transformer.h.3.attn.c_proj.weight"].forward == pytest.approx(8**-alpha)
    assert found["transformer.h.3.mlp.c_proj.bias"].forward == pytest.approx(8**-alpha)


def test_u_mup_is_unit_scalings_optimizer() -> None:
    # optim.py: fan_in^-1/2 for weights (of embeddings their width), 1 for the readout, depth^-1/2 within the stack.
    table = sy.parametrize({**LLAMA, "num_hidden_layers": 9}, rule="u-mup")
    found = by_name(table)
    assert found["model.embed_tokens.weight"].rate == pytest.approx(1 / 8)
    assert found["model.layers.8.mlp.down_proj.weight"].rate == pytest.approx(96**-0.5 / 3)
    assert found["model.layers.8.input_layernorm.weight"].rate == pytest.approx(1 / 3)
    assert found["lm_head.weight"].rate == 1 and found["lm_head.weight"].forward == pytest.approx(1 / 64)
    assert found["model.layers.8.mlp.up_proj.weight"].forward == pytest.approx(1 / 8)
    assert found["model.layers.8.mlp.down_proj.weight"].forward == pytest.approx(96**-0.5 / 3)
    assert {row.std for row in table.rows} == {0.0, 1.0}
    assert table.attention == pytest.approx(16**-0.5)


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(1, 6),
    second=st.integers(1, 6),
    deep=st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 2)]),
    name=st.sampled_from(MUP_LIKE),
    kind=st.sampled_from(["llama", "tied llama", "gpt2", "qwen3"]),
)
def test_growing_twice_is_growing_once(
    first: int, second: int, deep: tuple[int, int], name: str, kind: str
) -> None:
    if name == "mup":
        deep = (1, 1)
    small = {"num_hidden_layers": 1, "n_layer": 1}
    config = {**KINDS[kind], **{key: value for key, value in small.items() if key in KINDS[kind]}}
    middle = wider(config, first, deep[0])
    large = wider(middle, second, deep[1])
    whole = by_name(sy.parametrize(large, config, name))
    upper = by_name(sy.parametrize(large, middle, name))
    lower = {row.role: row for row in sy.parametrize(middle, config, name).rows}
    for row in whole.values():
        for quantity in ("init", "rate", "epsilon", "forward"):
            product = getattr(upper[row.name], quantity) * getattr(lower[row.role], quantity)
            assert getattr(row, quantity) == pytest.approx(product)


@settings(max_examples=20, deadline=None)
@given(times=st.integers(2, 16), deeper=st.integers(1, 5), name=st.sampled_from(["depth-mup", "completep"]))
def test_rows_go_with_the_rules_powers(times: int, deeper: int, name: str) -> None:
    rule: Rule = rules()[name]
    for row in sy.parametrize(wider(LLAMA, times, deeper), LLAMA, name).rows:
        powers = rule.powers(row.part)
        inside = deeper if "layers" in row.name else 1
        assert row.width == times
        assert math.log(row.rate) == pytest.approx(
            float(powers.rate) * math.log(times) + float(rule.block.rate) * math.log(inside)
        )
        last = row.name.endswith(("o_proj.weight", "down_proj.weight"))
        assert math.log(row.forward) == pytest.approx(
            float(powers.forward) * math.log(times) + (float(rule.branch) * math.log(inside) if last else 0),
            abs=1e-12,
        )


def adamw(weight: np.ndarray, gradients: Any, lr: float, eps: float, decay: float, steps: int) -> np.ndarray:
    """AdamW as its paper has it, in float64."""
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, steps + 1):
        gradient = gradients(weight)
        first = 0.9 * first + 0.1 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        weight = weight * (1 - lr * decay)
        unbiased = first / (1 - 0.9**step)
        weight = weight - lr * unbiased / (np.sqrt(second / (1 - 0.95**step)) + eps)
    return weight


@settings(max_examples=20, deadline=None)
@given(forward=st.floats(0.01, 3), factor=st.floats(0.1, 2), seed=st.integers(0, 99))
def test_a_tensor_that_holds_its_multiplier_trains_the_same(forward: float, factor: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    inputs, target, start = draw.standard_normal((5, 4)), draw.standard_normal((5, 3)), draw.standard_normal((3, 4))
    row = Row("w", "mlp.up", "hidden", (3, 4), 2.0, 0.0, 1.0, 1.0, 0.7, 1.3, 1.9, forward)
    held = row.times(factor)
    assert held.forward == 1

    def gradient(used: np.ndarray) -> np.ndarray:
        return (inputs @ used.T - target).T @ inputs

    whole = forward * factor
    plain = adamw(start, lambda w: whole * gradient(whole * w), 0.1 * row.rate, 1e-2 * row.epsilon, row.decay, 15)
    folded = adamw(whole * start, gradient, 0.1 * held.rate, 1e-2 * held.epsilon, held.decay, 15)
    np.testing.assert_allclose(folded, whole * plain, rtol=1e-9, atol=1e-12)
    assert held.std == pytest.approx(whole)


def test_a_tied_heads_multiplier_goes_to_the_last_norm() -> None:
    config = KINDS["tied llama"]
    table = sy.parametrize(wider(config, 4), config, "mup")
    head = by_name(table)["lm_head.weight"]
    assert head.tied_to == "model.embed_tokens.weight" and head.forward == 0.25
    folded = {row.name: row for row in table.folded()}
    assert "lm_head.weight" not in folded
    assert (folded["model.norm.weight"].mean, folded["model.norm.weight"].rate) == (0.25, 0.25)
    # The table of embeddings stays an input: microsoft/mup's shared readout multiplies it by the root of the width.
    assert (folded["model.embed_tokens.weight"].std, folded["model.embed_tokens.weight"].rate) == (0.05, 1)


def test_larger_heads_go_to_the_queries() -> None:
    large = {**wider(LLAMA, 4), "num_attention_heads": 4, "num_key_value_heads": 2}
    table = sy.parametrize(large, LLAMA, "mup")
    assert table.attention == pytest.approx(0.5)  # 1/d in place of 1/sqrt(d), for four times the d
    query = {row.name: row for row in table.folded()}["model.layers.0.self_attn.q_proj.weight"]
    assert query.rate == pytest.approx(0.25 * 0.5) and query.std == pytest.approx(0.05 * 0.5 * 0.5)
    # In one tensor with keys and values: the root of it there, and off again where values come out.
    fused = sy.parametrize({**wider(KINDS["gpt2"], 4), "n_head": 4}, KINDS["gpt2"], "mup")
    held = {row.name: row for row in fused.folded()}
    assert held["transformer.h.0.attn.c_attn.weight"].rate == pytest.approx(0.25 * 0.5**0.5)
    assert held["transformer.h.0.attn.c_proj.weight"].rate == pytest.approx(0.25 / 0.5**0.5)
    assert held["transformer.h.0.attn.c_proj.bias"].rate == 1


@pytest.mark.parametrize(
    ("config", "base", "rule", "message"),
    [
        ({"model_type": "nothing"}, LLAMA, "mup", "no table describes architecture 'nothing'"),
        (LLAMA, None, "mup", "mup scales against a base: give --base"),
        (LLAMA, LLAMA, "mpu", "did you mean mup"),
        (wider(LLAMA, 2, 2), LLAMA, "mup", "covers widths only, and the model has 4 blocks where the base has 2"),
        ({**LLAMA, "vocab_size": 64}, LLAMA, "mup", "vocab is 64 here and 128 in the base"),
        (KINDS["tied llama"], LLAMA, "mup", "tie_word_embeddings differs"),
        (KINDS["biased llama"], LLAMA, "mup", "differ in more than width and depth"),
        (LLAMA, KINDS["biased llama"], "mup", "that the model lacks"),
        (LLAMA, KINDS["gpt2"], "mup", "the base is a 'gpt2' and the model a 'llama'"),
        ({"model_type": "mamba"}, {"model_type": "mamba"}, "mup", "recurrent"),
        ({"model_type": "t5"}, {"model_type": "t5"}, "mup", "several stacks"),
        (KINDS["bert"], KINDS["bert"], "completep", "norms after the sum"),
    ],
)
def test_what_is_not_covered_is_refused_in_one_line(
    config: dict[str, Any],
    base: dict[str, Any] | None,
    rule: str,
    message: str,
    tmp_path: Path,
    steelyard: Steelyard,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = ["parametrize", tmp_path / "config.json", "--rule", rule]
    if base is not None:
        (tmp_path / "base.json").write_text(json.dumps(base))
        arguments += ["--base", tmp_path / "base.json"]
    ended = steelyard(*arguments)
    assert ended.code == 2 and message in ended.err and ended.err.count("\n") == 1 and not ended.out


def test_the_verb_prints_one_line_for_every_kind_and_one_object_for_every_tensor(
    tmp_path: Path, steelyard: Steelyard
) -> None:
    (tmp_path / "base.json").write_text(json.dumps(LLAMA))
    (tmp_path / "config.json").write_text(json.dumps(wider(LLAMA, 4, 2)))
    arguments = ("parametrize", tmp_path / "config.json", "--base", tmp_path / "base.json", "--rule", "completep")
    shown = steelyard(*arguments)
    assert shown.code == 0 and "model.layers.*.mlp.up_proj.weight (4)" in shown.out
    found = json.loads(steelyard(*arguments, "--json").out)
    assert found["rule"] == "completep" and found["depth"] == 2
    assert len(found["tensors"]) == 3 + 9 * 4
    folded = json.loads(steelyard(*arguments, "--folded", "--json").out)
    assert {row["forward"] for row in folded["tensors"]} == {1.0}
