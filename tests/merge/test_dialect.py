"""mergekit's YAML: what is read, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.edits.merge.dialect import ModelReference, Setting
from steelyard.edits.merge.dialect.reading import parse_recipes
from steelyard.edits.merge.dialect.recipe import Source, value_of
from steelyard.errors import UserError

SLERP = """
slices:
  - sources:
      - model: org/one
        layer_range: [0, 40]
      - model: org/two
        layer_range: [0, 40]
merge_method: slerp
base_model: org/one
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float16
"""


def test_a_recipe_of_mergekits_own_examples_is_read() -> None:
    (recipe,) = parse_recipes(SLERP)
    assert recipe.method == "slerp" and recipe.dtype == "F16" and str(recipe.base) == "org/one"
    (slice_,) = recipe.slices()
    assert [(str(s.model), s.layers) for s in slice_.sources] == [("org/one", (0, 40)), ("org/two", (0, 40))]
    t = recipe.parameters["t"]
    assert t.at("model.layers.3.self_attn.q_proj.weight", 0.25) == 0.5
    assert t.at("model.layers.3.mlp.up_proj.weight", 1) == 0
    assert t.at("model.norm.weight", 0) == 0.5
    # Between the second and the third of five values, a quarter of the way.
    assert t.at("self_attn", 0.3125) == pytest.approx(0.5 + 0.25 * (0.3 - 0.5))


def test_precedence_goes_from_the_source_to_the_recipe() -> None:
    (recipe,) = parse_recipes(
        """
merge_method: linear
parameters: {weight: 1, normalize: false}
modules:
  default:
    parameters: {weight: 2}
    slices:
      - parameters:
          weight: [{filter: mlp, value: 3}]
        sources:
          - {model: a, layer_range: [0, 2], parameters: {weight: {filter: down, value: 4}}}
          - {model: b, layer_range: [0, 2]}
"""
    )
    module = recipe.modules["default"]
    slice_ = module.slices[0]
    one, two = slice_.sources

    def weight(tensor: str, source: Source) -> object:
        return value_of("weight", tensor, 0, recipe, module, slice_, source)

    assert weight("mlp.down_proj", one) == 4
    assert weight("mlp.up_proj", one) == 3
    assert weight("mlp.down_proj", two) == 3
    assert weight("self_attn", one) == 2
    assert value_of("normalize", "x", 0, recipe, module, slice_, None) is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/model", ModelReference("org/model")),
        ("org/model@v1", ModelReference("org/model", "v1")),
        ("org/model@v1+org/lora@v2", ModelReference("org/model", "v1", "org/lora", "v2")),
        ("org/model+org/lora", ModelReference("org/model", None, "org/lora", None)),
        ("s3://bucket/a@b", ModelReference("s3://bucket/a@b")),
    ],
)
def test_references(text: str, expected: ModelReference) -> None:
    assert ModelReference.parse(text) == expected
    assert str(expected) == text


def test_a_path_that_exists_is_taken_whole(tmp_path: Path) -> None:
    odd = tmp_path / "c++@home"
    odd.mkdir()
    assert ModelReference.parse(str(odd)) == ModelReference(str(odd))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.floats(0, 1))
def test_gradients_stay_between_their_values_and_meet_them(values: list[float], depth: float) -> None:
    setting = Setting.parse(values)
    assert setting.at("any", 0) == values[0]
    assert setting.at("any", 1) == values[-1]
    found = setting.at("any", depth)
    assert found is not None and min(values) - 1e-9 <= found <= max(values) + 1e-9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: linear", "exactly one of models, slices and modules is expected, got none"),
        ("merge_method: linear\nmodels: [{model: a}]\nslices: [{sources: []}]", "got models and slices"),
        ("models: [{model: a}]", "merge_method: the name of a merge method"),
        (
            "merge_methd: linear\nmodels: [{model: a}]",
            "line 1: merge_methd: unknown key; did you mean merge_method?",
        ),
        ("merge_method: linear\nmodels:\n  - modle: a", "line 3: models[0]: a mapping with model is expected"),
        ("merge_method: linear\nmodels: [{model: a+b+c}]", "a model is `path`, `path@revision` or `path+adapter`"),
        ("merge_method: linear\nmodels: [{model: a@b@c}]", "a model is `path` or `path@revision`"),
        ("merge_method: linear\nmodels: [{model: a}]\ndtype: int64", "dtype: one of bfloat16, float16, float32"),
        (
            "merge_method: linear\nslices:\n  - sources:\n    - {model: a, layer_range: [4, 2]}",
            "line 4: slices[0].sources[0].layer_range: [first, after the last] layer is expected",
        ),
        (
            "merge_method: x\nslices:\n- sources:\n"
            "  - {model: a, layer_range: [0, 2]}\n  - {model: b, layer_range: [0, 3]}",
            "all sources of a slice give as many layers, got [2, 3]",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: [{filter: 3, value: 1}]}",
            "a filter is",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\ntokenizer_source: union\ntokenizer: {source: base}",
            "tokenizer and tokenizer_source exclude each other",
        ),
        (
            "name: a\nmerge_method: linear\nmodels: [x]\n---\nname: a\nmerge_method: linear\nmodels: [x]",
            "line 5: name: the name 'a' is given twice",
        ),
        ("models: [", "recipe, line 1"),
        ("", "a recipe is a mapping"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_recipes(text)
    assert message in str(caught.value)


def test_keys_that_mergekit_passes_over_are_noted() -> None:
    (recipe,) = parse_recipes("merge_method: linear\nmodels: [{model: a}]\nauthor: me")
    assert recipe.notes == ("author has no meaning here and was passed over",)
