"""Mixtures of experts made of dense models: gates, tensors, configs, and what transformers makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from merge.vocabularies import Golden
from steelyard.edits.merge.dialect import ModelReference
from steelyard.edits.merge.inputs import StoredModel
from steelyard.edits.merge.moe import forecast_mixture, is_mixture, merge_mixture, read_mixture
from steelyard.edits.merge.moe.gates import degenerate_layers, make_gates
from steelyard.edits.merge.moe.recipe import Expert
from steelyard.edits.merge.options import MergeOptions
from steelyard.errors import UserError
from tiny_llama import write_tiny

GATES = Path(__file__).parent / "golden" / "gates.npz"
ANY = ModelReference("any")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    """A model with a tokenizer."""
    folder = tmp_path_factory.mktemp("reader")
    Golden().write(folder)
    return StoredModel.open(str(folder / "first"), "first")


def experts() -> list[Expert]:
    with np.load(GATES) as arrays:
        prompts = json.loads(str(arrays["prompts"]))
    return [
        Expert(ANY, tuple(each["positive_prompts"]), tuple(each.get("negative_prompts", ()))) for each in prompts
    ]


# mergekit runs the model in bfloat16.
@pytest.mark.parametrize(("mode", "tolerance"), [("cheap_embed", 1e-6), ("hidden", 0.05)])
def test_the_gates_that_mergekit_makes(mode: str, tolerance: float, reader: StoredModel) -> None:
    with np.load(GATES) as arrays:
        expected = arrays[mode]
    found = make_gates(mode, reader, experts(), 0)
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("mode", ["hidden", "hidden_last", "hidden_avg"])
def test_gates_are_the_states_that_enter_the_layers(mode: str, reader: StoredModel) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = reader.checkpoint.folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def states(prompts: tuple[str, ...]) -> Any:
        found = []
        for prompt in prompts:
            ids = tokenizer("<s>" + prompt, return_tensors="pt", add_special_tokens=False).input_ids
            with torch.no_grad():
                entered = torch.stack(model(ids, output_hidden_states=True).hidden_states[:-1])[:, 0]
            found.append(entered.mean(dim=1) if mode == "hidden_avg" else entered[:, -1])
        return torch.stack(found).mean(dim=0)

    made = make_gates(mode, reader, experts(), 0)
    for number, expert in enumerate(experts()):
        wanted = states(expert.positive) - (states(expert.negative) if expert.negative else 0)
        wanted = wanted / wanted.norm(dim=-1, keepdim=True)
        np.testing.assert_allclose(made[:, number], wanted.numpy(), atol=1e-5)


def test_drawn_gates(reader: StoredModel) -> None:
    two = [Expert(ANY), Expert(ANY)]
    made = make_gates("random", reader, two, 3)
    np.testing.assert_array_equal(made, make_gates("random", reader, two, 3))
    assert not np.array_equal(made, make_gates("random", reader, two, 4))
    bounded = make_gates("uniform_random", reader, two * 40, 0)
    assert 0.9 * 8**-0.5 < np.abs(bounded).max() <= 8**-0.5
    assert degenerate_layers(np.ones((2, 2, 8))) == [0, 1]
    assert degenerate_layers(np.eye(8)[None, :2]) == []


def write_recipe(place: Path, base: Path, models: list[Path], **settings: Any) -> Path:
    """Write a recipe with drawn gates."""
    recipe = {
        "base_model": str(base),
        "gate_mode": "random",
        "experts": [{"source_model": str(model)} for model in models],
        **settings,
    }
    place.write_text(yaml.safe_dump(recipe))
    return place


def other(place: Path, seed: int, source: Path, **changes: Any) -> Path:
    """A copy of a model with other numbers."""
    from safetensors.numpy import save_file

    place.mkdir()
    draw = np.random.default_rng(seed)
    tensors = {
        name: (array + 0.05 * draw.standard_normal(array.shape)).astype(array.dtype)
        for name, array in load_file(source / "model.safetensors").items()
    }
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    config = {**json.loads((source / "config.json").read_text()), **changes}
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_tensors_of_a_mixtral(tiny_llama: Path, tmp_path: Path) -> None:
    second = other(tmp_path / "second", 1, tiny_llama)
    recipe = write_recipe(tmp_path / "r.yaml", tiny_llama, [tiny_llama, second, second])
    assert is_mixture(recipe)
    text = yaml.safe_load(recipe.read_text())
    text["experts"][2]["residual_scale"] = 0.5
    recipe.write_text(yaml.safe_dump(text))
    made = merge_mixture(read_mixture(recipe), tmp_path / "out", MergeOptions())
    assert made.method == "mixtral"
    assert any("power of two" in note for note in made.notes)
    expected = forecast_mixture(read_mixture(recipe), MergeOptions())
    assert expected["bytes"] == made.nbytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    found, base = load_file(tmp_path / "out" / "model.safetensors"), load_file(tiny_llama / "model.safetensors")
    extra = load_file(second / "model.safetensors")
    for layer in range(2):
        stem = f"model.layers.{layer}."
        for spelled, part in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            dense = f"{stem}mlp.{part}.weight"
            for number, source in enumerate((base, extra, extra)):
                scale = np.float32(0.5 if number == 2 and part == "down_proj" else 1)
                expert = found[f"{stem}block_sparse_moe.experts.{number}.{spelled}.weight"]
                np.testing.assert_array_equal(expert, scale * source[dense])
        assert found[f"{stem}block_sparse_moe.gate.weight"].shape == (3, 64)
        np.testing.assert_array_equal(
            found[f"{stem}self_attn.q_proj.weight"], base[f"{stem}self_attn.q_proj.weight"]
        )
    assert not any(".mlp." in name for name in found)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_local_experts"], config["num_experts_per_tok"], config["model_type"]) == (3, 2, "mixtral")
    StoredModel.open(str(tmp_path / "out")).close()


def _loaded(folder: Path) -> tuple[Any, Any]:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    assert not info["mismatched_keys"], info
    tokens = torch.arange(1, 25).reshape(2, 12) % 100
    with torch.no_grad():
        return type(model).__name__, model.eval()(tokens).logits.numpy()


QWEN3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "max_window_layers": 2}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}


def dense(place: Path, changes: dict[str, Any], tied: bool) -> Path:
    """A dense model of another architecture, its norms or biases drawn."""
    from safetensors.numpy import save_file

    write_tiny(place, tied=tied, **changes)
    tensors, draw = load_file(place / "model.safetensors"), np.random.default_rng(2)
    for layer in range(2):
        stem = f"model.layers.{layer}.self_attn."
        if changes.get("model_type") == "qwen3":
            for norm in ("q_norm", "k_norm"):
                tensors[f"{stem}{norm}.weight"] = 1 + 0.1 * draw.standard_normal(16).astype(np.float32)
        if changes.get("model_type") == "qwen2":
            for bias, size in (("q", 64), ("k", 32), ("v", 32)):
                tensors[f"{stem}{bias}_proj.bias"] = 0.1 * draw.standard_normal(size).astype(np.float32)
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return place


@pytest.mark.parametrize(
    ("changes", "shared", "architecture", "tied"),
    [
        ({}, False, "MixtralForCausalLM", False),
        ({"rope_theta": 500.0}, False, "MixtralForCausalLM", True),
        (MISTRAL, False, "MixtralForCausalLM", False),
        ({}, True, "Qwen2MoeForCausalLM", False),
        (QWEN2, True, "Qwen2MoeForCausalLM", True),
        (QWEN3, False, "Qwen3MoeForCausalLM", False),
    ],
)
def test_a_mixture_of_one_model_computes_what_it_does(
    changes: dict[str, Any], shared: bool, architecture: str, tied: bool, tmp_path: Path
) -> None:
    base = dense(tmp_path / "base", changes, tied)
    settings: dict[str, Any] = {"experts_per_token": 2}
    if shared:
        settings["shared_experts"] = [{"source_model": str(base), "residual_scale": 0.0}]
    recipe = write_recipe(tmp_path / "r.yaml", base, [base] * 4, **settings)
    made = merge_mixture(read_mixture(recipe), tmp_path / "out", MergeOptions())
    assert any("all experts are the same model" in note for note in made.notes)
    name, logits = _loaded(tmp_path / "out")
    assert name == architecture
    expected = _loaded(base)[1]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_killed_run_goes_on_to_the_same_bytes(tiny_llama: Path, tmp_path: Path) -> None:
    recipe = read_mixture(write_recipe(tmp_path / "r.yaml", tiny_llama, [tiny_llama] * 2))
    recipe = replace(recipe, experts=tuple(replace(expert, noise=0.1) for expert in recipe.experts))
    whole = merge_mixture(recipe, tmp_path / "whole", MergeOptions(workers=2))

    class Stopped(Exception):
        """Stands for a kill."""

    class Stops:
        """Progress that ends the run after a few tensors."""

        left = 9

        def start(self, label: str, total: float, unit: str = "") -> None:
            """Nothing."""

        def advance(self, amount: float) -> None:
            """Count."""
            Stops.left -= 1
            if Stops.left < 0:
                raise Stopped

        def finish(self) -> None:
            """Nothing."""

    with pytest.raises(Stopped):
        merge_mixture(recipe, tmp_path / "part", MergeOptions(workers=1), progress=Stops())
    merge_mixture(recipe, tmp_path / "part", MergeOptions(workers=1), resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "part" / name).read_bytes() == (whole.out / name).read_bytes()
    noisy = load_file(whole.out / "model.safetensors")["model.layers.0.block_sparse_moe.experts.0.w1.weight"]
    plain = load_file(tiny_llama / "model.safetensors")["model.layers.0.mlp.gate_proj.weight"]
    assert (noisy - plain).std() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"experts": []}, "at least one expert"),
        ({"experts_per_token": 3}, "experts_per_token is 3, and there are 2 experts"),
        ({"gate_mode": "hiden"}, "one of hidden"),
        ({"gate_mode": "hidden"}, r"experts\[0\] has no positive_prompts"),
        ({"dtype": "int8"}, "one of bfloat16"),
        ({"architecture": "mixtrall"}, "did you mean mixtral"),
        ({"architecture": "qwen"}, "exactly one shared expert, got 0"),
        ({"architecture": "qwen3"}, "made of qwen3 models, not of llama"),
        ({"gate": "random"}, "did you mean gate_mode"),
        ({"base_model": "/nowhere"}, "/nowhere does not exist"),
    ],
)
def test_what_recipes_may_not_say(settings: dict[str, Any], words: str, tiny_llama: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", tiny_llama, [tiny_llama] * 2, **settings)
    with pytest.raises(UserError, match=words):
        forecast_mixture(read_mixture(path), MergeOptions())


def test_experts_of_another_size(tiny_llama: Path, tmp_path: Path) -> None:
    wider = write_tiny(tmp_path / "wider", intermediate_size=160)
    path = write_recipe(tmp_path / "r.yaml", tiny_llama, [tiny_llama, wider])
    with pytest.raises(UserError, match=r"gate_proj\.weight is \[160, 64\] in .*wider and \[128, 64\]"):
        merge_mixture(read_mixture(path), tmp_path / "out", MergeOptions())
    deeper = write_tiny(tmp_path / "shallow", num_hidden_layers=1)
    path = write_recipe(tmp_path / "r.yaml", tiny_llama, [tiny_llama, deeper])
    with pytest.raises(UserError, match=r"shallow has no mlp\.gate in layer 1"):
        merge_mixture(read_mixture(path), tmp_path / "out", MergeOptions())
    assert not (tmp_path / "out").exists()
