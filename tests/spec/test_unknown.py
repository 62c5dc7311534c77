"""Checkpoints without a table, and how a table is added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.errors import UserError
from steelyard.spec import (
    Architecture,
    ModelSpec,
    architectures,
    embedding,
    linear,
    registry,
    rules,
)
from steelyard.spec.rules import Shared

STORED: dict[str, tuple[tuple[int, ...], str]] = {
    "backbone.embeddings.weight": ((64, 32), "BF16"),
    "backbone.position_embeddings.weight": ((64, 32), "BF16"),
    "backbone.layers.0.mixer.in_proj.weight": ((96, 32), "BF16"),
    "backbone.layers.0.mixer.conv1d.weight": ((96, 1, 4), "BF16"),
    "backbone.layers.0.mixer.conv1d.bias": ((96,), "BF16"),
    "backbone.layers.0.mixer.small.weight": ((8, 32), "BF16"),
    "backbone.layers.0.norm.weight": ((32,), "F32"),
    "backbone.layers.0.rotary.inv_freq": ((8,), "F32"),
    "backbone.layers.1.mixer.in_proj.weight": ((96, 32), "BF16"),
    "backbone.layers.1.mixer.A_log": ((96, 16), "F32"),
    "experts.0.weight_packed.weight": ((64, 64), "I32"),
    "lm_head.weight": ((64, 32), "BF16"),
}
CONFIG = {"model_type": "released_this_morning", "architectures": ["NewForCausalLM"], "tie_word_embeddings": True}


def test_names_and_shapes_are_enough() -> None:
    spec = ModelSpec.build(CONFIG, STORED)
    assert spec.architecture is None
    assert spec.task == "causal"
    assert spec.quantizable() == (
        "backbone.embeddings.weight",
        "backbone.layers.0.mixer.in_proj.weight",
        "backbone.layers.1.mixer.in_proj.weight",
        "lm_head.weight",
    )
    kinds = {name: tensor.kind for name, tensor in spec.tensors.items()}
    assert kinds["backbone.embeddings.weight"] == "embedding"
    assert kinds["backbone.layers.0.mixer.conv1d.weight"] == "other"
    assert kinds["backbone.layers.0.mixer.conv1d.bias"] == "bias"
    assert kinds["backbone.layers.0.norm.weight"] == "norm"
    assert all(tensor.axes is None for tensor in spec.tensors.values())
    assert spec.block_prefixes == ("backbone.layers.0.", "backbone.layers.1.")
    assert spec.tensors["backbone.layers.1.mixer.A_log"].layer == 1
    assert spec.tensors["lm_head.weight"].layer is None
    assert spec.input_key("lm_head.weight") == "lm_head"


def test_guesses_are_stated() -> None:
    notes = " ".join(ModelSpec.build(CONFIG, STORED).notes)
    for stated in ("released_this_morning", "guessed", "share one codec", "2 blocks", "ties word embeddings"):
        assert stated in notes


def test_parameters_are_floats_that_are_no_buffers() -> None:
    spec = ModelSpec.build(CONFIG, STORED)
    floats = 3 * 64 * 32 + 2 * 96 * 32 + 96 * 4 + 96 + 8 * 32 + 32 + 96 * 16
    assert spec.parameter_count() == floats


def test_bare_file_without_config() -> None:
    spec = ModelSpec.build({}, {"weight": ((16, 16), "F32")})
    assert spec.model_type == "" and spec.n_layers == 0 and spec.quantizable() == ("weight",)


def test_what_needs_axes_says_which_table_is_missing() -> None:
    spec = ModelSpec.build(CONFIG, STORED)
    with pytest.raises(UserError) as caught:
        spec.require_axes("prune heads")
    message = str(caught.value)
    for part in ("prune heads", "spec/architectures/released_this_morning.py", "CONTRIBUTING.md", "llama", "bert"):
        assert part in message
    with pytest.raises(UserError, match="key-value cache"):
        spec.kv_cache_bytes(8, 1)


@pytest.fixture
def table_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(registry.package, "__path__", [*registry.package.__path__, str(tmp_path)])
    architectures.cache_clear()
    yield tmp_path
    architectures.cache_clear()


TABLE = """
from steelyard.spec import Architecture, embedding, linear, rules

ARCHITECTURE = Architecture(
    model_type="released_this_morning",
    base_class="NewModel",
    default_class="NewForCausalLM",
    prefix="net.",
    block="net.{layer}.",
    defaults={"tie_word_embeddings": False},
    sizes={"layer": "depth", "vocab": "vocab_size", "hidden": "width"},
    rules=rules(
        embedding("net.embed", "embed.token", "vocab", "hidden"),
        linear("net.{layer}.mix", "mlp.up", "hidden", "hidden"),
    ),
)
"""


def test_one_file_adds_an_architecture(table_folder: Path) -> None:
    (table_folder / "released_this_morning.py").write_text(TABLE)
    (table_folder / "_private.py").write_text("raise AssertionError('modules with an underscore are not tables')")
    config = {**CONFIG, "tie_word_embeddings": False, "depth": 2, "vocab_size": 5, "width": 3}
    stored = {
        name: (shape, "F32")
        for name, shape in architectures()["released_this_morning"].expected_shapes(config).items()
    }
    assert stored == {
        "net.embed.weight": ((5, 3), "F32"),
        "net.0.mix.weight": ((3, 3), "F32"),
        "net.1.mix.weight": ((3, 3), "F32"),
    }
    spec = ModelSpec.build(config, stored)
    assert spec.architecture is not None and spec.notes == ()
    assert spec.kv_cache_bytes(100, 1) == 0
    with pytest.raises(UserError, match=r"config\.json lacks depth"):
        ModelSpec.build({key: value for key, value in config.items() if key != "depth"}, stored)


def test_two_tables_for_one_model_type_are_refused(table_folder: Path) -> None:
    (table_folder / "also_llama.py").write_text(TABLE.replace("released_this_morning", "llama"))
    with pytest.raises(ValueError, match="llama"):
        architectures()


EXPERTS = Architecture(
    model_type="experts",
    base_class="Base",
    default_class="Base",
    prefix="model.",
    block="model.layers.{layer}.",
    defaults={"tie_word_embeddings": False},
    sizes={
        "layer": "layers",
        "expert": "experts",
        "vocab": 8,
        "hidden": "width",
        "ffn": lambda s: 2 * s.size("width"),
    },
    rules=rules(
        embedding("model.embed", "embed.token", "vocab", "hidden"),
        *(
            linear(
                f"model.layers.{{layer}}.experts.{{expert}}.{name}",
                f"mlp.{name}",
                "ffn",
                "hidden",
                shared=Shared("model.layers.{layer}.experts", "model.layers.{layer}.experts.{expert}.gate"),
            )
            for name in ("gate", "up")
        ),
    ),
)


def test_placeholders_are_axes_so_experts_need_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.spec.model.find_architecture", lambda config: EXPERTS)
    config = {"model_type": "experts", "architectures": ["Base"], "layers": 2, "experts": 3, "width": 4}
    stored = {
        f"layers.{layer}.experts.{expert}.{name}.weight": ((8, 4), "BF16")
        for layer in range(2)
        for expert in range(3)
        for name in ("gate", "up")
    } | {"embed.weight": ((8, 4), "BF16")}
    assert set(EXPERTS.expected_shapes(config)) == set(stored)
    spec = ModelSpec.build(config, stored)
    assert [(group.name, len(group.members)) for group in spec.groups] == [
        ("layers.0.experts", 6),
        ("layers.1.experts", 6),
    ]
    assert spec.input_key("layers.1.experts.2.up.weight") == "layers.1.experts.2.gate"
    with pytest.raises(UserError, match=r"experts\.2\.gate.*experts = 2"):
        ModelSpec.build({**config, "experts": 2}, stored)
