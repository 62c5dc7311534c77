"""Parametrizations on real small transformers: initial values, groups, and a coordinate check that can fail."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import steelyard as sy
from command_line import Steelyard
from steelyard.forecast.parametrize import Parametrization, make
from steelyard.forecast.parametrize.check import Check, coordinate_check, judge, slope
from steelyard.spec import ModelSpec

torch = pytest.importorskip("torch", reason="models are trained")
transformers = pytest.importorskip("transformers")

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LARGE: dict[str, Any] = {**LLAMA, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 32}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True, "sliding_window": 16}
PAIRS = {
    "llama, larger heads": (LLAMA, LARGE),
    "llama, tied": ({**LLAMA, "tie_word_embeddings": True}, {**LARGE, "tie_word_embeddings": True}),
    "gpt2, larger heads": (GPT2, {**GPT2, "n_embd": 64, "n_layer": 4}),
    "gpt2": (GPT2, {**GPT2, "n_embd": 64, "n_head": 8, "n_layer": 4}),
    "qwen3, larger heads": (
        {**LLAMA, "model_type": "qwen3", "head_dim": 8},
        {**LARGE, "model_type": "qwen3", "head_dim": 16},
    ),
    "gemma2": ({**LLAMA, **GEMMA, "model_type": "gemma2"}, {**LARGE, **GEMMA, "model_type": "gemma2"}),
    "olmo2": ({**LLAMA, "model_type": "olmo2"}, {**LARGE, "model_type": "olmo2"}),
}


def build(config: dict[str, Any]) -> Any:
    values = {key: value for key, value in config.items() if key != "model_type"}
    made = transformers.AutoConfig.for_model(config["model_type"], **values)
    return transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager").eval()


def logits(model: Any) -> Any:
    tokens = torch.arange(24).reshape(2, 12) + 3
    with torch.no_grad():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("rule", ["completep", "depth-mup", "u-mup"])
@pytest.mark.parametrize("kind", PAIRS)
def test_initial_values_hold_every_multiplier(kind: str, rule: str) -> None:
    base, config = PAIRS[kind]
    table = sy.parametrize(config, base, rule)
    model = build(config)
    table.reinitialise(model, seed=3)

    # The same as published: the stored values without multipliers, and every multiplier where it belongs.
    published = build(config)
    plain = replace(
        table,
        attention=1.0,
        rows=tuple(replace(row, forward=1.0) for row in table.rows),
    )
    plain.reinitialise(published, seed=3)
    head_factor = 1.0
    for row in table.rows:
        name = row.name.removesuffix(".weight").removesuffix(".bias")
        if row.forward == 1 or row.name.endswith(".bias"):
            continue  # biases begin at zero
        factor = row.forward
        published.get_submodule(name).register_forward_hook(lambda _m, _i, out, factor=factor: out * factor)
        head_factor *= factor if name == "lm_head" else 1.0
    for module in published.modules():
        if hasattr(module, "scaling") and isinstance(module.scaling, float):
            module.scaling *= table.attention
    expected, found = logits(published), logits(model)
    assert head_factor != 1 and expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5 * float(expected.abs().max()))


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    table = sy.parametrize(LARGE, LLAMA, "completep")
    first, second, other = build(LARGE), build(LARGE), build(LARGE)
    table.reinitialise(first, 1)
    table.reinitialise(second, 1)
    table.reinitialise(other, 2)
    one, same, changed = (dict(model.named_parameters()) for model in (first, second, other))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], changed["lm_head.weight"])
    rows = {row.name: row for row in table.folded()}
    for name, parameter in one.items():
        if rows[name].std:
            assert float(parameter.detach().std()) == pytest.approx(rows[name].std, rel=0.1)


def test_groups_cover_every_parameter_once_with_the_tables_numbers() -> None:
    table = sy.parametrize(LARGE, LLAMA, "completep")
    model = build(LARGE)
    groups = table.groups(model, lr=0.02, weight_decay=0.1, eps=1e-6)
    found = {name: group for group in groups for name in group["names"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert all(names[p] == n for group in groups for p, n in zip(group["params"], group["names"], strict=True))
    up = found["model.layers.0.mlp.up_proj.weight"]
    assert (up["lr"], up["weight_decay"], up["eps"]) == pytest.approx((0.01, 0.2, 1e-6 / 4))
    assert found["model.norm.weight"]["weight_decay"] == 0
    torch.optim.AdamW(groups)
    independent = sy.parametrize(LARGE, rule="u-mup").groups(model, lr=0.5, weight_decay=1e-3)
    for group in independent:
        if group["weight_decay"]:
            assert group["lr"] * group["weight_decay"] == pytest.approx(1e-3)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_experts_in_one_tensor_have_the_numbers_of_each(kind: str) -> None:
    experts = {"num_local_experts": 3, "num_experts": 3, "moe_intermediate_size": 48, "head_dim": 8}
    base = {**LLAMA, **experts, "model_type": kind}
    config = {**base, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
    config |= {"intermediate_size": 192, "moe_intermediate_size": 192}
    model = build(config)
    table = sy.parametrize(config, base, "mup")
    table.reinitialise(model)
    groups = {name: group for group in table.groups(model, lr=1.0) for name in group["names"]}
    rates = {
        name: groups[name]["lr"] for name in groups if "layers.1." in name and ("expert" in name or "gate" in name)
    }
    assert rates == {
        "model.layers.1.mlp.gate.weight": 0.5,
        "model.layers.1.mlp.experts.gate_up_proj": 0.5,
        "model.layers.1.mlp.experts.down_proj": 0.25,
    }
    down = dict(model.named_parameters())["model.layers.1.mlp.experts.down_proj"]
    assert float(down.detach().std()) == pytest.approx(0.2 / 2, rel=0.02)


def test_a_model_of_another_config_is_refused() -> None:
    table = sy.parametrize(LARGE, LLAMA, "completep")
    with pytest.raises(sy.UserError, match=r"is \[64, 32\] in the model and \[64, 64\] in the table"):
        table.reinitialise(build(LLAMA))
    tied = {**LARGE, "tie_word_embeddings": True}
    with pytest.raises(sy.UserError, match=r"lacks lm_head\.weight"):
        table.groups(build(tied), lr=1e-3)
    untied = copy.deepcopy(build(LARGE))
    with pytest.raises(sy.UserError, match=r"the config ties lm_head\.weight"):
        sy.parametrize(tied, {**LLAMA, "tie_word_embeddings": True}, "completep").reinitialise(untied)
    with pytest.raises(sy.UserError, match="lr must be positive"):
        table.groups(build(LARGE), lr=0)


def check(rule: str, config: dict[str, Any] = LLAMA, spoil: Any = None, **options: Any) -> Check:
    def table(spec: ModelSpec, base: ModelSpec) -> Parametrization:
        made = make(spec, base, rule)
        return made if spoil is None else spoil(made, spec)

    settings = {"times": (1, 2, 4), "seeds": 1, **options}
    return coordinate_check(ModelSpec.from_config(config), table, **settings)


def verdicts(found: Check) -> dict[str, str]:
    return {trend.name: trend.verdict for trend in found.trends}


@pytest.mark.parametrize("rule", ["mup", "completep", "u-mup"])
def test_activations_keep_their_size(rule: str) -> None:
    found = check(rule)
    assert found.passed, verdicts(found)
    assert len(found.trends) == 2 + 7 * 2 + 1


def test_the_standard_parametrization_fails() -> None:
    found = verdicts(check("standard"))
    assert found["lm_head"] == "grows with width"
    assert found["model.layers.1.mlp.down_proj"] != "flat"


def test_a_missing_base_fails() -> None:
    # What microsoft/mup does without base shapes: every width is its own base, silently standard (issue 41).
    found = check("mup", spoil=lambda made, spec: make(spec, spec, "mup"))
    assert not found.passed and verdicts(found)["lm_head"] == "grows with width"


TIED = {**LLAMA, "tie_word_embeddings": True}


def test_tied_embeddings_pass() -> None:
    found = check("mup", TIED)
    assert found.passed, verdicts(found)


def test_a_shared_readout_that_rescales_the_embeddings_fails() -> None:
    # microsoft/mup's issue 55: the initial values of the shared table are multiplied by the root of the width.
    def spoil(made: Parametrization, spec: ModelSpec) -> Parametrization:
        rows = (
            replace(row, std=row.std * row.width**0.5) if row.name == "model.embed_tokens.weight" else row
            for row in made.rows
        )
        return replace(made, rows=tuple(rows))

    found = verdicts(check("mup", TIED, spoil))
    assert found["model.embed_tokens"] == "grows with width"


def test_a_tied_head_without_its_multiplier_fails() -> None:
    def spoil(made: Parametrization, spec: ModelSpec) -> Parametrization:
        return replace(made, rows=tuple(replace(row, forward=1.0) if row.tied_to else row for row in made.rows))

    found = verdicts(check("mup", TIED, spoil))
    assert found["lm_head"] in ("grows with width", "changes grow with width")


def test_a_head_that_is_divided_twice_fails() -> None:
    def spoil(made: Parametrization, spec: ModelSpec) -> Parametrization:
        rows = (replace(row, forward=row.forward**2) if row.part == "output" else row for row in made.rows)
        return replace(made, rows=tuple(rows))

    assert verdicts(check("mup", LLAMA, spoil))["lm_head"] == "shrinks with width"


@pytest.mark.parametrize("rule", ["depth-mup", "completep"])
def test_depth_passes_only_where_branches_are_scaled(rule: str) -> None:
    assert check(rule, axis="depth").passed
    assert not check("standard", axis="depth").passed


def test_larger_heads_and_other_kinds_pass() -> None:
    assert check("mup", larger_heads=True).passed
    assert check("mup", GPT2).passed


def test_slopes_and_verdicts() -> None:
    assert slope([32, 64, 128], [3 * width**0.5 for width in (32, 64, 128)]) == pytest.approx(0.5)
    assert judge("width", 0.5, 0.0, 0.0, 0.25) == "grows with width"
    assert judge("width", -0.5, 0.0, 0.0, 0.25) == "shrinks with width"
    assert judge("width", -0.5, -0.5, -0.5, 0.25) == "flat"
    assert judge("width", -0.5, -0.8, -0.5, 0.25) == "changes shrink with width"
    assert judge("depth", 0.0, 0.3, -0.5, 0.25) == "changes grow with depth"
    assert judge("width", slope([1, 2, 4], [0, 1, 1]), 0.0, 0.0, 0.25) == "zero or not finite"


def test_the_verb_ends_with_the_verdict(tmp_path: Path, steelyard: Steelyard) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    arguments = (
        "parametrize",
        tmp_path / "config.json",
        "--base",
        tmp_path / "config.json",
        "--check",
        "--seeds",
        "1",
    )
    passed = steelyard(*arguments, "--steps", "2")
    assert passed.code == 0 and "mup passed" in passed.out
    failed = steelyard(*arguments, "--rule", "standard", "--steps", "2", "--json")
    assert failed.code == 1 and json.loads(failed.out)["passed"] is False


def test_what_cannot_be_checked_is_refused() -> None:
    bert = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    with pytest.raises(sy.UserError, match="trains dense causal models"):
        check("mup", bert)
    with pytest.raises(sy.UserError, match="three sizes"):
        check("mup", times=(1, 2))
