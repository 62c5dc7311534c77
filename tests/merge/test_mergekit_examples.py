"""Recipes as mergekit's own examples have them, on tiny models: they run as they are, but for the models' paths.

Each is written after one of the files in that repository's `examples` folder, with its keys, methods, gradients,
and layers in proportion; what comes out is compared with a plain computation in float64.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from command_line import Steelyard
from merge.siblings import Tensors, config_of, weights, wide, write_sibling
from tiny_llama import write_tiny

LAYERS = 4

EXAMPLES = {
    # linear.yml: three models, weights that do not sum to one.
    "linear": """
models:
  - model: orca
    parameters:
      weight: 1.0
  - model: wizard
    parameters:
      weight: 0.3
  - model: platypus
    parameters:
      weight: 0.5
merge_method: linear
dtype: float16
""",
    # gradient-slerp.yml: factors over the layers, others for attention than for feed-forwards.
    "gradient-slerp": """
slices:
  - sources:
      - model: orca
        layer_range: [0, 4]
      - model: platypus
        layer_range: [0, 4]
merge_method: slerp
base_model: orca
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
""",
    # orcamini-platy-44layer.yml: layers of two models, stacked; some occur in both.
    "stacked": """
slices:
  - sources:
    - model: orca
      layer_range: [0, 3]
  - sources:
    - model: platypus
      layer_range: [2, 4]
merge_method: passthrough
dtype: float16
""",
    # gpt2-small.yml: fewer layers of one model.
    "cut": """
slices:
  - sources:
    - model: orca
      layer_range: [0, 2]
merge_method: passthrough
dtype: float16
""",
    # ties.yml of release 0.1.5 and bio-merge.yml: densities and weights, a mask's type, no division by the weights.
    "bio-merge": """
models:
  - model: orca
    parameters:
      density: 0.5
      weight: 0.5
  - model: platypus
    parameters:
      density: 0.5
      weight: 0.5
merge_method: ties
base_model: llama
parameters:
  normalize: false
  int8_mask: true
dtype: float16
""",
    # ties.yml: gradients of densities and weights, an empty `parameters`.
    "ties": """
models:
  - model: orca # best
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: wizard
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: platypus
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: llama
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""",
    # arcee_fusion.yml: the base is among the models.
    "arcee-fusion": """
models:
  - model: orca
  - model: wizard
merge_method: arcee_fusion
base_model: orca
dtype: bfloat16
""",
}
# mega.yml: a merge of a merge, each document with its `out_path`.
MEGA = """
slices:
  - sources:
      - model: orca
        layer_range: [0, 4]
      - model: platypus
        layer_range: [0, 4]
merge_method: slerp
base_model: orca
parameters:
  t: 0.25
dtype: float32
out_path: ./models/gradient-slerp
---
models:
  - model: ./models/gradient-slerp
    parameters:
      weight: 1.0
  - model: wizard
    parameters:
      weight: 0.5
merge_method: task_arithmetic
base_model: llama
parameters:
  normalize: false
dtype: float32
out_path: ./models/gradient-slerp-ties
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_tiny(folder / "llama", num_hidden_layers=LAYERS)
    for seed, name in enumerate(("orca", "wizard", "platypus")):
        write_sibling(folder / name, seed, num_hidden_layers=LAYERS)
    return folder


def run(steelyard: Steelyard, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    monkeypatch.chdir(zoo)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(text)
    ended = steelyard("merge", recipe, tmp_path / "out", "--copy-tokenizer", "--lazy-unpickle")
    assert ended.code == 0, ended.err
    return tmp_path / "out"


def slerp(t: float, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    cosine = float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))
    if abs(cosine) > 0.9995:
        mixed: np.ndarray = (1 - t) * first + t * second
        return mixed
    angle = np.arccos(cosine)
    turned: np.ndarray = (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)
    return turned


def depth(name: str) -> float:
    return int(name.split(".")[2]) / (LAYERS - 1) if ".layers." in name else 0.0


def gradient(values: list[float], at: float) -> float:
    return float(np.interp(at * (len(values) - 1), range(len(values)), values))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_is(
    steelyard: Steelyard, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = run(steelyard, zoo, tmp_path, monkeypatch, EXAMPLES[name])
    kind = "bfloat16" if "bfloat16" in EXAMPLES[name] else "float16"
    assert {str(array.dtype) for array in weights(out).values()} == {kind}
    config = config_of(out)
    assert config.get("torch_dtype", config.get("dtype")) == kind
    assert config["num_hidden_layers"] == {"stacked": 5, "cut": 2}.get(name, LAYERS)


def test_the_weighted_sum(steelyard: Steelyard, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = wide(run(steelyard, zoo, tmp_path, monkeypatch, EXAMPLES["linear"]))
    models = [(wide(zoo / name), weight) for name, weight in (("orca", 1.0), ("wizard", 0.3), ("platypus", 0.5))]
    for name, array in found.items():
        exact = sum(weight * model[name] for model, weight in models) / 1.8
        np.testing.assert_allclose(array, exact, rtol=1e-3, atol=1e-6)


def test_the_gradients(steelyard: Steelyard, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = wide(run(steelyard, zoo, tmp_path, monkeypatch, EXAMPLES["gradient-slerp"]))
    first, second = wide(zoo / "orca"), wide(zoo / "platypus")
    for name, array in found.items():
        values = {"self_attn": [0, 0.5, 0.3, 0.7, 1], "mlp": [1, 0.5, 0.7, 0.3, 0]}
        listed = next((values[part] for part in values if part in name), [0.5])
        exact = slerp(gradient(listed, depth(name)), first[name], second[name])
        np.testing.assert_allclose(array, exact, rtol=1e-3, atol=1e-5)


def test_the_stack(steelyard: Steelyard, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = weights(run(steelyard, zoo, tmp_path, monkeypatch, EXAMPLES["stacked"]))
    first, second = weights(zoo / "orca"), weights(zoo / "platypus")
    origin: list[tuple[Tensors, int]] = [(first, 0), (first, 1), (first, 2), (second, 2), (second, 3)]
    for name, array in found.items():
        model, stored = (
            (first, name) if not name.startswith("model.norm") and "lm_head" not in name else (second, name)
        )
        if ".layers." in name:
            layer = int(name.split(".")[2])
            model = origin[layer][0]
            stored = name.replace(f".{layer}.", f".{origin[layer][1]}.", 1)
        assert np.array_equal(array, model[stored].astype(np.float16)), name


def test_a_merge_of_a_merge(
    steelyard: Steelyard, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = wide(run(steelyard, zoo, tmp_path, monkeypatch, MEGA))
    orca, platypus, wizard, base = (wide(zoo / name) for name in ("orca", "platypus", "wizard", "llama"))
    for name, array in found.items():
        exact = slerp(0.25, orca[name], platypus[name]) + 0.5 * (wizard[name] - base[name])
        np.testing.assert_allclose(array, exact, rtol=1e-4, atol=1e-5)
    assert not (zoo / "models").exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "recipe.yml"]
