"""What holds between the registries: whatever is added to one of them must fit the others.

What each entry must keep by itself is tested on its own floor (tests/codecs, tests/edits, tests/spec). Here every
format meets every codec on every architecture, and every option that a verb shows is one that a recipe takes.
"""

from __future__ import annotations

import importlib
import json
import runpy
import string
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard import codecs
from steelyard.budget.candidates import offers
from steelyard.budget.encoding import rounding_of
from steelyard.budget.policy_menu import follow
from steelyard.cli import VERBS
from steelyard.codecs import Codec, DenseCodec
from steelyard.edits import registry
from steelyard.errors import UserError
from steelyard.formats import FORMATS, Format
from steelyard.formats.base import is_called
from steelyard.recipes.steps import STEPS
from steelyard.spec import ModelSpec, architectures
from steelyard.weights.dtypes import DTYPES

TESTS = Path(__file__).parents[1]
EXAMPLES: Mapping[str, tuple[Codec, ...]] = runpy.run_path(str(TESTS / "codecs" / "codec_examples.py"))["EXAMPLES"]
ALL_CODECS = [codec for examples in EXAMPLES.values() for codec in examples]

# By the names that tables give these sizes; a table with other names is added here.
SMALL = {
    **dict.fromkeys(("vocab_size",), 96),
    **dict.fromkeys(("hidden_size", "n_embd", "model_dim", "dim", "d_model"), 64),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "hidden_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 128
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_transformer_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads",), 2),
    **dict.fromkeys(("head_dim", "d_kv", "projection_dim"), 16),
    **dict.fromkeys(("image_size", "max_source_positions", "max_target_positions"), 32),
    **dict.fromkeys(("patch_size", "num_mel_bins", "state_size"), 8),
    **dict.fromkeys(("n_groups",), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 3),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 32),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("first_k_dense_replace", "num_gqa_groups"), 1),
    **dict.fromkeys(("ffn_dim_divisor",), 16),
}
LARGEST = 200_000


def small_config(model_type: str) -> dict[str, Any]:
    """A config of a model of that type with a few thousand parameters."""
    defaults = architectures()[model_type].defaults
    config: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [architectures()[model_type].default_class],
    }
    for key in defaults:
        *outer, last = key.split(".")
        if last in SMALL:
            place = config.setdefault(outer[0], {}) if outer else config
            place[last] = SMALL[last]
    return config


def small_spec(model_type: str, dtype: str = "F32") -> ModelSpec:
    """The spec of such a model, its shapes made by the table itself."""
    config = small_config(model_type)
    shapes = architectures()[model_type].expected_shapes(config)
    return ModelSpec.build(config, {name: (shape, dtype) for name, shape in shapes.items()})


def refuses(format: Format, spec: ModelSpec) -> bool:
    """Tell whether a format of named families has no place for a model, which it says in one line."""
    try:
        offers(spec, format, "quick")
    except UserError as refusal:
        said = str(refusal)
        assert format.name == "gguf" and "\n" not in said
        assert f"{spec.model_type!r} cannot be written" in said or "has no place for" in said
        return True
    return False


every_architecture = pytest.mark.parametrize("model_type", architectures())
every_format = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)


@every_architecture
def test_an_architecture_makes_a_model_that_it_reads(model_type: str) -> None:
    table = architectures()[model_type]
    shapes = table.expected_shapes(small_config(model_type))
    spec = small_spec(model_type)
    assert set(shapes) == set(spec.tensors) and shapes
    assert spec.model_type == model_type and spec.architecture is table and spec.notes == ()
    assert 0 < spec.parameter_count() < LARGEST, "give SMALL the names of this table's sizes"
    assert spec.quantizable() and spec.n_layers == len(spec.block_prefixes) >= 2
    for group in spec.groups:
        assert len(group.members) > 1
        # Linears that are fused read the same input; the experts of a layer share a codec alone.
        widths = {spec.tensors[name].matrix_shape[1] for name in group.members}
        assert len(widths) == 1 or group.name.endswith(".experts")
        assert set(group.members) <= set(spec.quantizable())


def test_every_architecture_is_held_against_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="the variants name its classes")
    variants = runpy.run_path(str(TESTS / "spec" / "spec_peers.py"))["VARIANTS"]
    held = {getattr(transformers, name).config_class.model_type for name, _ in variants}
    known = {name for name in architectures() if name in transformers.CONFIG_MAPPING}
    assert known <= held, "add a class of it to VARIANTS in tests/spec/spec_peers.py"


@cache
def encoded(codec: Codec, shape: tuple[int, ...]) -> Mapping[str, np.ndarray]:
    """Noise of a shape, encoded once for all architectures and formats."""
    return codec.encode(np.random.default_rng(3).standard_normal(shape).astype(np.float32))


@every_format
@every_architecture
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_format_writes_what_it_announces(format: Format, model_type: str, dtype: str) -> None:
    spec = small_spec(model_type, dtype)
    if refuses(format, spec):
        return
    supported = 0
    for name in [*spec.tensors, *(alias for alias in spec.ties if alias.endswith(".weight"))]:
        tensor = spec.tensors[spec.ties.get(name, name)]
        shape = tensor.matrix_shape if len(tensor.shape) == 2 else tensor.shape
        for codec in ALL_CODECS:
            if not _holds(codec, shape) or not format.supports(spec, name, codec):
                continue
            supported += 1
            announced = {item.name: (item.dtype, item.shape) for item in format.stored(spec, name, codec)}
            packed = format.pack(spec, name, codec, encoded(codec, shape))
            assert set(packed) == set(announced)
            for stored, array in packed.items():
                kind, size = announced[stored]
                assert array.dtype == DTYPES[kind].numpy and array.shape == tuple(size), (stored, codec.label)
            assert sum(array.nbytes for array in packed.values()) >= codec.nbytes(shape)
            written = format.config(spec, spec.config, {name: codec})
            assert json.loads(json.dumps(written)) == written
            plain = isinstance(codec, DenseCodec) and codec.dtype != "F8_E4M3"
            # A GGUF file says itself how it is to be read.
            assert ("quantization_config" in written) == (not plain and format.name != "gguf")
    assert supported > 0


@every_format
def test_a_format_goes_by_its_own_name(format: Format) -> None:
    assert FORMATS[format.name] is format
    assert isinstance(format.packs_tied, bool)


@every_architecture
def test_the_native_format_takes_every_codec(model_type: str) -> None:
    spec = small_spec(model_type)
    linears = [name for name in spec.quantizable() if spec.tensors[name].kind == "linear" and is_called(spec, name)]
    for codec in ALL_CODECS:
        assert all(FORMATS["steelyard"].supports(spec, name, codec) for name in linears), codec.label


@every_format
@every_architecture
@pytest.mark.parametrize("effort", ["quick", "good", "best"])
def test_whatever_is_on_offer_can_be_rounded_and_stored(format: Format, model_type: str, effort: Any) -> None:
    spec = small_spec(model_type, "BF16")
    if refuses(format, spec):
        return
    for offer in offers(spec, format, effort):
        # First what changes least: as stored, or the plain floats that a format asks for.
        assert all(codec is None or isinstance(codec, DenseCodec) for _, codec in offer.choices[0])
        for name, codec in (pair for choice in offer.choices[1:] for pair in choice):
            if codec is not None:
                assert format.supports(spec, name, codec)
                rounding = rounding_of(codec, "gptq")
                assert rounding in registry.methods() or (rounding == "" and isinstance(codec, DenseCodec))
                assert codec.name in codecs.NAMES


# What a verb does before its step: a search for the numbers of the recipe that is then merged.
_BEFORE = {"merge": {"tune", "data", "evaluations"}}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_and_its_verb_take_the_same_options(name: str) -> None:
    step = STEPS[name]
    assert name in VERBS and step.summary and callable(step.function())
    fields = step.options().model_fields
    verb = importlib.import_module(f"steelyard.cli.{name.replace('-', '_')}").command
    # What is hidden are other tools' spellings of the same.
    offered = {parameter.name for parameter in verb.params if not getattr(parameter, "hidden", False)}
    assert set(fields) <= offered
    for field, info in fields.items():
        assert info.description and not info.is_required(), field
    assert offered - set(fields) - _BEFORE.get(name, set()) <= {
        "model",
        "folder",
        "out",
        "resume",
        "dry_run",
        "as_json",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_what_it_does(verb: str) -> None:
    command = importlib.import_module(f"steelyard.cli.{verb.replace('-', '_')}").command
    assert command.name == verb and (command.help or "").strip()
    assert VERBS[verb][0] in string.ascii_uppercase and VERBS[verb].endswith(".")
    for parameter in command.params:
        assert parameter.param_type_name == "argument" or parameter.help, f"{verb}: {parameter.name} has no help"


@pytest.mark.parametrize("name", registry.methods())
def test_a_method_has_a_place_in_the_house(name: str) -> None:
    module = registry.get(name).function.__module__
    assert module.startswith("steelyard.edits.") and not module.rpartition(".")[2].startswith("_")
    assert registry.get(name).build({}) == registry.get(name).options()


def _holds(codec: Codec, shape: tuple[int, ...]) -> bool:
    """Tell whether a codec can hold a tensor of that shape at all."""
    try:
        codec.parts(shape)
    except UserError:
        return False
    return True


def test_experts_alone_in_eight_bits_where_there_are_experts() -> None:
    spec = small_spec("jamba")
    native = FORMATS["steelyard"]
    menu = follow(offers(spec, native, "good"), spec, native, ["experts-int8"])
    assert all(len(offer.choices) == 1 for offer in menu)
    found = {name: codec for offer in menu for name, codec in offer.choices[0] if codec is not None}
    assert {spec.tensors[name].role for name in found} == {"expert.gate", "expert.up", "expert.down"}
    assert {codec.label for codec in found.values()} == {"int8 row sym f16"}
    layers = follow(offers(spec, native, "good"), spec, native, ["glm-int4"])
    roles = {spec.tensors[n].role for offer in layers for n, codec in offer.choices[0] if codec is not None}
    assert "router" not in roles and "embed.token" not in roles and "expert.up" in roles
