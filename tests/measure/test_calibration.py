"""The statistics against brute force: whole models, autograd, one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.measure.calibration import FILE_VERSION, Calibration, CalibrationOptions
from steelyard.measure.collect import calibrate, collect
from steelyard.measure.fisher import _sample
from steelyard.measure.identity import model_identity
from steelyard.measure.model import Model, Overlay, open_model
from steelyard.measure.texts import Corpus, Document
from steelyard.measure.windows import IGNORED, Batch, TokenSet, cut
from steelyard.seeds import generator
from steelyard.weights import Checkpoint

from .models import KINDS

TEXT = "The quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. "


def corpus(documents: int = 6) -> Corpus:
    draw = np.random.default_rng(0)
    words = TEXT.split()
    made = [" ".join(draw.choice(words, int(draw.integers(3, 12)))) for _ in range(documents)]
    return Corpus(tuple(Document(f"{i}", text) for i, text in enumerate(made)), f"{documents} texts")


def opened(folder: Path) -> Model:
    return open_model(folder, Checkpoint.open(folder))


def windows_of(model: Model, sequences: int = 8, length: int = 24) -> TokenSet:
    return cut(corpus(), model.tokenizer, model.task, model.vocabulary, sequences=sequences, length=length)


def single(data: TokenSet, number: int) -> Batch:
    window = data.windows[number]
    size = np.array([len(window.inputs)])
    return Batch(np.array([number]), window.inputs[None], window.labels[None], size)


def whole(kind: str, folder: Path) -> Any:
    import transformers

    return getattr(transformers, KINDS[kind][0]).from_pretrained(folder, attn_implementation="eager").eval()


def objective(module: Any, model: Model, data: TokenSet, number: int) -> Any:
    """What is differentiated for one window: -log p(sampled labels), or a probe of the embedding."""
    import torch

    batch = single(data, number)
    output = module(input_ids=torch.from_numpy(batch.inputs))
    if model.task == "encoder":
        embedding = torch.nn.functional.normalize(output.last_hidden_state.mean(1), dim=1)[0]
        name = f"probe {number} of {data.names[data.windows[number].document]}"
        return embedding @ torch.from_numpy(generator(0, name).standard_normal(len(embedding)).astype(np.float32))
    labels = _sample(output.logits.detach().softmax(-1), batch, data, 0)
    scored = torch.from_numpy(batch.labels != IGNORED)
    return -output.logits.log_softmax(-1).gather(2, labels[..., None])[..., 0][scored].sum()


def oriented(module: Any, matrix: np.ndarray) -> np.ndarray:
    return matrix.T if type(module).__name__ == "Conv1D" else matrix


@pytest.mark.parametrize("kind", KINDS)
def test_against_brute_force(kind: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    import torch

    model = opened(tiny(kind))
    data = windows_of(model)
    assert len({len(w.inputs) for w in data.windows}) > 2, "padding is to be met"
    calibration = collect(model, data, tmp_path / "c.safetensors", CalibrationOptions(batch_tokens=70))
    reference = whole(kind, tiny(kind))
    modules = {n: m for n, m in reference.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    entered: dict[str, list[np.ndarray]] = {name: [] for name in modules}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _, args, out, name=name: entered[name].append(
                args[0].detach().double().reshape(-1, args[0].shape[-1])
            )
        )
    squares: dict[str, np.ndarray] = dict.fromkeys(modules, 0)  # type: ignore[misc]
    head = reference.get_output_embeddings()
    for number in range(len(data.windows)):
        reference.zero_grad()
        objective(reference, model, data, number).backward()
        for name, module in modules.items():
            if module.weight.grad is not None and module is not head:
                gradient = oriented(module, module.weight.grad.double().numpy())
                squares[name] = squares[name] + (gradient**2).sum(1)
    units = calibration.about["units"]
    checked = 0
    for name, module in modules.items():
        stored = f"{name}.weight" if kind != "gpt_neox" or module is not head else "embed_out.weight"
        if module is head or (kind == "bert" and name.startswith("pooler")):
            continue
        x = torch.cat(entered[name])
        np.testing.assert_allclose(
            calibration.second_moment(stored), (x.T @ x).numpy() / len(x), rtol=2e-5, atol=1e-6
        )
        low, high = calibration.input_range(stored)
        np.testing.assert_allclose(low, x.amin(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(high, x.amax(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(calibration.input_mean(stored), x.mean(0), rtol=1e-4, atol=1e-5)
        trace = float(np.trace(calibration.second_moment(stored), dtype=np.float64))
        expected = squares[name] / units
        np.testing.assert_allclose(
            calibration.output_gradient(stored) * trace, expected, rtol=1e-3, atol=1e-4 * expected.max()
        )
        checked += 1
    assert checked >= 3 * 4
    if kind == "bert":
        assert "pooler.dense.weight" not in calibration


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox", "bert-masked"])
def test_head_against_the_softmax_in_closed_form(kind: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    import torch

    model = opened(tiny(kind))
    data = windows_of(model)
    calibration = collect(model, data, tmp_path / "c.safetensors")
    reference = whole(kind, tiny(kind))
    seen: list[Any] = []
    reference.get_output_embeddings().register_forward_hook(lambda m, args, out: seen.append(args[0][0].double()))
    expected, moment, tokens, units = 0.0, 0.0, 0, 0
    for number in range(len(data.windows)):
        batch = single(data, number)
        with torch.no_grad():
            p = reference(input_ids=torch.from_numpy(batch.inputs)).logits[0].double().softmax(-1)
        x = seen[-1]
        scored = torch.from_numpy(batch.labels[0] != IGNORED)
        expected = expected + ((p * (1 - p)) * x.square().sum(1, keepdim=True))[scored].sum(0)
        moment, tokens, units = moment + x.T @ x, tokens + len(x), units + int(scored.sum())
    stored = {"gpt_neox": "embed_out.weight", "llama": "lm_head.weight", "qwen2": "model.embed_tokens.weight"}
    term = calibration.terms(stored.get(kind, "bert.embeddings.word_embeddings.weight"))[-1]
    np.testing.assert_allclose(term.second_moment, moment / tokens, rtol=1e-4, atol=1e-5)
    trace = float(torch.trace(moment / tokens))
    np.testing.assert_allclose(term.row_weight * trace, expected / units, rtol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "bert"])
def test_embedding_against_brute_force(kind: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = opened(tiny(kind))
    data = windows_of(model)
    calibration = collect(model, data, tmp_path / "c.safetensors", CalibrationOptions(batch_tokens=70))
    reference = whole(kind, tiny(kind))
    weight = reference.get_input_embeddings().weight
    squares = 0.0
    for number in range(len(data.windows)):
        reference.zero_grad()
        objective(reference, model, data, number).backward()
        squares = squares + weight.grad.double().numpy() ** 2
    squares = squares / calibration.about["units"]
    (name,) = calibration.about["embeddings"]
    (term,) = calibration.terms(name)
    np.testing.assert_allclose(np.diag(term.second_moment), squares.sum(0), rtol=1e-3)
    assert term.row_weight.sum() == pytest.approx(1, abs=1e-5) and (term.row_weight > 0).all()
    assert calibration.fisher(name) == pytest.approx(squares.sum(), rel=1e-3)
    counts = np.bincount(np.concatenate([w.inputs for w in data.windows]), minlength=model.vocabulary)
    assert calibration.token_counts(name).tolist() == counts.tolist()
    np.testing.assert_allclose(calibration.token_information(name), squares.sum(1), rtol=2e-3, atol=1e-9)
    texts = [set(w.inputs.tolist()) for w in data.windows]
    inside = [sum(token in text for text in texts) for token in range(model.vocabulary)]
    assert calibration.token_sources(name).tolist() == inside


def test_same_inputs_same_bytes(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Also when hidden states are spilled to disk; other seeds give other labels."""
    model = opened(tiny("llama"))
    data = windows_of(model)
    for name, options in {
        "a": CalibrationOptions(),
        "b": CalibrationOptions(),
        "spilled": CalibrationOptions(activation_bytes=0),
        "seed": CalibrationOptions(seed=1),
    }.items():
        collect(model, data, tmp_path / f"{name}.safetensors", options).close()
    content = {path.stem: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(content) == {"a", "b", "spilled", "seed"}, "nothing else is left behind"
    assert content["a"] == content["b"]
    assert content["a"].replace(b'"activation_bytes\\":1073741824', b'"activation_bytes\\":0') != content["seed"]
    with Calibration.open(tmp_path / "a.safetensors") as a, Calibration.open(tmp_path / "spilled.safetensors") as b:
        for name in a.names:
            assert np.array_equal(a.output_gradient(name), b.output_gradient(name))
    with Calibration.open(tmp_path / "a.safetensors") as a, Calibration.open(tmp_path / "seed.safetensors") as b:
        name = "model.layers.0.mlp.up_proj.weight"
        assert not np.array_equal(a.output_gradient(name), b.output_gradient(name))
        assert np.array_equal(a.second_moment(name), b.second_moment(name))


def test_file_is_reused_and_bound_to_its_model(tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = opened(tiny("llama"))
    path = tmp_path / "c.safetensors"
    first = calibrate(model, corpus(), path, CalibrationOptions(sequences=4, sequence_length=16))
    assert first.tokens > 0 and first.description == "6 texts" and first.unit == "KL divergence in nats per token"
    before = path.stat().st_mtime_ns
    assert calibrate(model, corpus(2), path).tokens == first.tokens
    assert path.stat().st_mtime_ns == before
    name = "model.layers.0.mlp.up_proj.weight"
    changed = Overlay(model.source, {name: model.source.tensor(name) + np.float32(1e-6)})
    with pytest.raises(UserError, match=rf"was made for another model \({tiny('llama').name}\)"):
        calibrate(model.with_source(changed), corpus(), path)
    assert model_identity(changed) != model_identity(model.source) == model_identity(opened(tiny("llama")).source)


def test_a_run_that_fails_leaves_nothing(tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = opened(tiny("llama"))
    wrong = Overlay(model.source, {"model.layers.2.mlp.up_proj.weight": np.zeros((3, 3), np.float32)})
    with pytest.raises(UserError, match="has shape"):
        collect(model.with_source(wrong), windows_of(model), tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such calibration file"):
        Calibration.open(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="not a calibration file"):
        Calibration.open(tiny("llama") / "model.safetensors")
    model = opened(tiny("llama"))
    path = tmp_path / "c.safetensors"
    collect(model, windows_of(model), path).close()
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError):
        Calibration.open(path)
    path.write_bytes(content.replace(f'\\"version\\":{FILE_VERSION},'.encode(), b'\\"version\\":9,'))
    with pytest.raises(UserError, match="version 9"):
        Calibration.open(path)


def test_plain_safetensors_reads_it(tiny: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model = opened(tiny("qwen2"))
    calibration = collect(model, windows_of(model), tmp_path / "c.safetensors")
    arrays = load_file(tmp_path / "c.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    owner = calibration.about["owner"][name]
    assert owner == "model.layers.1.self_attn.q_proj.weight", "they read the same input"
    assert np.array_equal(arrays[f"second_moment.{owner}"], calibration.second_moment(name))
    assert f"second_moment.{name}" not in arrays


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert-masked", "bert"])
def test_prediction_is_the_measured_damage(kind: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    """One tensor at a time is disturbed at random; the KL divergence (cosine distance) is as predicted.

    In such small matrices one disturbance differs much from the next, so a few are averaged.
    """
    from steelyard.measure.evaluate import Evaluator

    model = opened(tiny(kind))
    texts = Corpus(tuple(Document(f"{i}", tokens=_tokens(i)) for i in range(80)), "draws")
    data = cut(texts, model.tokenizer, model.task, model.vocabulary, sequences=80, length=24)
    calibration = collect(model, data, tmp_path / "c.safetensors")
    names = [name for name in calibration.names if not any(f".{i}." in name for i in (1, 2))]
    predicted, measured = np.zeros(len(names)), np.zeros(len(names))
    with Evaluator(model, data) as evaluator:
        for place, name in enumerate(names):
            weight = model.source.tensor(name).astype(np.float32)
            draw = generator(0, name)
            for _ in range(3):
                error = 0.01 * np.abs(weight).mean() * draw.standard_normal(weight.shape).astype(np.float32)
                conv = kind == "gpt2" and ".h." in f".{name}"
                predicted[place] += calibration.damage(name, error.T if conv else error)
                result = evaluator.measure(Overlay(model.source, {name: weight + error})).damage
                assert result is not None
                measured[place] += result.value
    ratios = measured / predicted
    assert len(ratios) >= 5
    assert ratios.min() > 0.5 and ratios.max() < 2, dict(zip(names, ratios.round(2).tolist(), strict=True))
    assert 0.8 < np.exp(np.log(ratios).mean()) < 1.25
    assert np.corrcoef(np.log(measured), np.log(predicted))[0, 1] > 0.9


def _tokens(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, 25)
