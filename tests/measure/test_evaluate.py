from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.measure.evaluate import EvaluationOptions, Evaluator, evaluate, held_out_windows
from steelyard.measure.loaded import measure_loaded
from steelyard.measure.model import Model, Overlay, open_model
from steelyard.measure.texts import Corpus, Document
from steelyard.weights import Checkpoint

from .test_calibration import corpus

OPTIONS = EvaluationOptions(sequences=12, sequence_length=24, batch_tokens=70)


def opened(folder: Path) -> Model:
    return open_model(folder, Checkpoint.open(folder))


def disturbed(model: Model, size: float) -> Overlay:
    name = next(n for n in model.source.names if n.endswith(("up_proj.weight", "intermediate.dense.weight")))
    weight = model.source.tensor(name)
    noise = np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32)
    return Overlay(model.source, {name: weight + size * noise})


def test_loss_is_that_of_transformers(tiny: Callable[..., Path]) -> None:
    """One document at a time through the whole model, with transformers' own loss."""
    import torch
    import transformers

    folder = tiny("llama")
    measured = evaluate(opened(folder), documents=corpus(), options=EvaluationOptions(sequence_length=60))
    reference = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    total, count, nbytes = 0.0, 0, 0
    for document in corpus().documents:
        assert document.text is not None
        tokens = torch.tensor([[256, *tokenizer(document.text)["input_ids"][:60]]])
        with torch.no_grad():
            total += float(reference(input_ids=tokens, labels=tokens).loss) * (tokens.shape[1] - 1)
        count, nbytes = count + tokens.shape[1] - 1, nbytes + len(document.text[:60].encode())
        rest = tokenizer(document.text)["input_ids"][60:]
        if rest:
            tokens = torch.tensor([[tokenizer(document.text)["input_ids"][59], *rest]])
            with torch.no_grad():
                total += float(reference(input_ids=tokens, labels=tokens).loss) * len(rest)
            count, nbytes = count + len(rest), nbytes + len(document.text[60:].encode())
    assert measured.tokens == count and measured.documents == 6 and measured.resampled == "documents"
    assert measured.loss is not None and measured.perplexity is not None and measured.bits_per_byte is not None
    assert measured.loss.value == pytest.approx(total / count, rel=1e-5)
    assert measured.perplexity.value == pytest.approx(np.exp(total / count), rel=1e-4)
    assert measured.bits_per_byte.value == pytest.approx(total / np.log(2) / nbytes, rel=1e-5)
    assert measured.base is None and measured.kl is None


def test_candidates_beside_their_base(tiny: Callable[..., Path]) -> None:
    model = opened(tiny("llama"))
    with Evaluator(model, held_out_windows(model, corpus(), OPTIONS), OPTIONS) as evaluator:
        same, little, much = (evaluator.measure(disturbed(model, size)) for size in (0.0, 0.02, 0.1))
        alone = evaluator.measure_base()
        again = evaluator.measure(disturbed(model, 0.1))
    assert same.kl is not None and little.kl is not None and much.kl is not None
    assert same.kl.value == 0 and same.top1_agreement is not None and same.top1_agreement.value == 1
    assert same.loss == alone.loss and same.loss_increase is not None and same.loss_increase.value == 0
    assert 0 < little.kl.low < little.kl.value < little.kl.high < much.kl.value
    assert much.negative_flips is not None and 0 <= much.negative_flips.value <= 1
    assert much.damage == much.kl and again.to_dict() == much.to_dict()


def test_spilling_changes_nothing(tiny: Callable[..., Path]) -> None:
    model = opened(tiny("gpt2"))
    spilled = OPTIONS.model_copy(update={"activation_bytes": 0})
    first, second = (evaluate(model, model, corpus(), options).to_dict() for options in (OPTIONS, spilled))
    assert first == second


def test_encoders_are_compared_by_their_embeddings(tiny: Callable[..., Path]) -> None:
    import torch
    import transformers

    folder = tiny("bert")
    model = opened(folder)
    data = held_out_windows(model, corpus(), OPTIONS)
    with Evaluator(model, data, OPTIONS) as evaluator:
        same = evaluator.measure(model)
        much = evaluator.measure(disturbed(model, 0.3), name="noisy")
        with pytest.raises(UserError, match=r"encoder and has no loss.*--against"):
            evaluator.measure_base()
    assert same.cosine is not None and same.cosine.value == 1 and same.cosine_distance is not None
    assert same.rank_correlation is not None and same.rank_correlation.value == pytest.approx(1)
    assert much.rank_correlation is not None and 0 < much.rank_correlation.value < 1
    reference = transformers.BertModel.from_pretrained(folder).eval()
    noisy = transformers.BertModel.from_pretrained(folder).eval()
    weights = disturbed(model, 0.3).tensors
    noisy.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()}, strict=False)
    distances = []
    for window in data.windows:
        with torch.no_grad():
            a, b = (
                m(input_ids=torch.from_numpy(window.inputs[None])).last_hidden_state.mean(1)[0]
                for m in (reference, noisy)
            )
        distances.append(1 - float(torch.nn.functional.cosine_similarity(a, b, dim=0)))
    assert much.damage is not None and much.damage.value == pytest.approx(np.mean(distances), rel=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling_is_read_from_the_folder(pooling: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny("bert"), tmp_path / "model")
    types = ["Transformer", "Pooling"] + ["Normalize"] * (pooling != "max")
    modules = [
        {"idx": i, "path": f"{i}_{t}", "type": f"sentence_transformers.models.{t}"} for i, t in enumerate(types)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{k}": k.startswith(pooling) for k in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 17}')
    model = opened(folder)
    assert (model.pooling, model.normalise, model.max_length) == (pooling, pooling != "max", 17)
    data = held_out_windows(model, corpus(), OPTIONS)
    assert max(len(w.inputs) for w in data.windows) == 17
    with Evaluator(model, data, OPTIONS) as evaluator:
        assert evaluator.measure(model).to_dict()["cosine"]["value"] == 1


def test_masked_models_are_scored_at_every_position(tiny: Callable[..., Path]) -> None:
    model = opened(tiny("bert-masked"))
    data = held_out_windows(model, corpus(), OPTIONS)
    with Evaluator(model, data, OPTIONS) as evaluator:
        measured = evaluator.measure(disturbed(model, 0.05))
    specials = 2 * len(data.windows)
    assert measured.tokens == data.tokens - specials
    assert measured.kl is not None and measured.kl.value > 0 and measured.loss is not None


def test_models_that_do_not_fit_each_other(tiny: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"knows 270 tokens.*260"):
        evaluate(opened(tiny("llama", vocab_size=270)), opened(tiny("llama")), corpus(), OPTIONS)


def test_plain_transformers_agrees(tiny: Callable[..., Path]) -> None:
    """The same windows, the whole model, another process."""
    folder = tiny("llama")
    model = opened(folder)
    data = held_out_windows(model, corpus(), OPTIONS)
    loaded = measure_loaded(folder, data, against=tiny("llama-tied"))
    ours = evaluate(model, opened(tiny("llama-tied")), corpus(), OPTIONS)
    assert loaded.missing == () and loaded.unexpected == () and loaded.loader == "LlamaForCausalLM"
    assert loaded.without_steelyard
    for name, estimate in ours.estimates().items():
        theirs = loaded.measurement.estimates()[name]
        assert theirs.value == pytest.approx(estimate.value, rel=1e-4), name
        assert theirs.low == pytest.approx(estimate.low, rel=1e-3), name


def test_what_the_loader_invents_is_reported(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Without a tensor transformers fills the parameter at random and goes on; here that must be seen."""
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(tiny("llama"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["odd.weight"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = opened(tiny("llama"))
    loaded = measure_loaded(folder, held_out_windows(model, corpus(), OPTIONS))
    assert loaded.missing == ("model.layers.1.mlp.up_proj.weight",)
    assert loaded.unexpected == ("odd.weight",)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(UserError, match=r"transformers cannot load .*model"):
        measure_loaded(folder, held_out_windows(model, corpus(), OPTIONS))


def test_loading_from_the_command_line(tiny: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 5)
    command = [sys.executable, "-m", "steelyard.measure.loaded", str(tiny("bert")), str(text)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "name a base with --against" in done.stderr
    done = subprocess.run([*command, "--against", str(tiny("bert"))], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["measurement"]["cosine"]["value"] == 1 and answer["without_steelyard"] is True


def test_importing_costs_no_torch() -> None:
    code = (
        "import sys, steelyard.measure as m; m.Evaluator, m.Calibration, m.calibrate, m.load_documents, m.cut; "
        "m.default_corpora, m.measure_loaded; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import steelyard.measure as m

    assert all(hasattr(m, name) for name in m.__all__) and not hasattr(m, "nonsense")


def test_the_package_is_the_public_function_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing `steelyard.measure` hides the function `steelyard.measure`; calling must work all the same."""
    import steelyard as sy
    import steelyard.api
    import steelyard.measure.windows

    monkeypatch.setattr(steelyard.api, "measure", lambda model, against=None: (model, against))
    assert sy.measure("a", against="b") == ("a", "b")


def test_documents_too_short_for_anything(tiny: Callable[..., Path]) -> None:
    model = opened(tiny("llama"))
    with pytest.raises(UserError, match="no tokens in nothing"):
        held_out_windows(model, Corpus((Document("e", tokens=np.zeros(0, np.int64)),), "nothing"), OPTIONS)
