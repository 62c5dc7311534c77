"""Native folders in transformers, with the packed modules that decode on use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from formats.conftest import Build, class_of  # noqa: E402
from formats.folders import KINDS, Written, integers, write_folder, write_reference  # noqa: E402
from steelyard.errors import UserError  # noqa: E402
from steelyard.formats.native.modules import Packed, PackedEmbedding, PackedLinear  # noqa: E402
from steelyard.loading import load  # noqa: E402

IDS = torch.arange(3, 43).view(2, 20)


def output(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS)[0]


def loaded(folder: Path, class_name: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    model, info = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True, **options)
    return model, {key: value for key, value in info.items() if value}


@pytest.fixture
def plain(tmp_path: Path) -> Callable[[Written], Path]:
    return lambda made: write_reference(made, tmp_path / "plain")


@pytest.mark.parametrize("kind", list(KINDS))
def test_loads_every_key_and_computes_the_decoded_model(
    written: Build, plain: Callable[[Written], Path], kind: str
) -> None:
    made = written(kind, "float32", "steelyard")
    model, problems = loaded(made.folder, class_of(kind))
    assert problems == {}
    expected = output(loaded(plain(made), class_of(kind))[0])
    # Low-rank products are applied as two thin ones, so sums are in another order.
    torch.testing.assert_close(output(model), expected, rtol=1e-5, atol=2e-5)
    packed = [module for module in model.modules() if isinstance(module, Packed)]
    # A tied head is one module more than there are encoded tensors, and shares its blob.
    assert len({id(module.weight) for module in packed}) == len(made.codecs)
    assert {module.weight.dtype for module in packed} == {torch.uint8}


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "bert"])
def test_integers_give_the_very_numbers_in_bfloat16(
    sources: Callable[..., Path], plain: Callable[[Written], Path], tmp_path: Path, kind: str
) -> None:
    made = write_folder(sources(kind, "bfloat16"), tmp_path / "made", "steelyard", integers("BF16"))
    model, problems = loaded(made.folder, class_of(kind))
    assert problems == {}
    result = output(model)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, output(loaded(plain(made), class_of(kind))[0]))


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "gpt_neox", "bert-masked"])
def test_a_model_without_its_head(written: Build, plain: Callable[[Written], Path], kind: str) -> None:
    made = written(kind, "float32", "steelyard")
    reference, expected = loaded(plain(made), "AutoModel")
    model, problems = loaded(made.folder, "AutoModel")
    for found in (problems, expected):
        found.setdefault("unexpected_keys", set())
    assert problems == expected
    torch.testing.assert_close(model(IDS)[0], reference(IDS)[0], rtol=1e-5, atol=2e-5)


def test_a_tied_head_shares_one_blob(written: Build) -> None:
    made = written("llama-tied", "float32", "steelyard")
    model, _ = loaded(made.folder, "AutoModelForCausalLM")
    assert isinstance(model.lm_head, PackedLinear) and isinstance(model.model.embed_tokens, PackedEmbedding)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    table = torch.from_numpy(made.decoded["model.embed_tokens.weight"])
    torch.testing.assert_close(model.model.embed_tokens(IDS), table[IDS], rtol=0, atol=1e-6)


def test_a_pair_written_apart_has_two_blobs(written: Build, plain: Callable[[Written], Path]) -> None:
    made = written("llama-tied", "float32", "steelyard", True)
    model, problems = loaded(made.folder, "AutoModelForCausalLM")
    assert problems == {}
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    torch.testing.assert_close(
        output(model), output(loaded(plain(made), "AutoModelForCausalLM")[0]), rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2", "gpt_neox", "bert-masked"])
def test_saving_and_loading_again(written: Build, tmp_path: Path, kind: str) -> None:
    model, _ = loaded(written(kind, "float32", "steelyard").folder, class_of(kind))
    model.save_pretrained(tmp_path / "saved")
    again, problems = loaded(tmp_path / "saved", class_of(kind))
    assert problems == {}
    assert torch.equal(output(again), output(model))


def test_unpacking_a_model(written: Build, tmp_path: Path) -> None:
    model, _ = loaded(written("llama-tied", "float32", "steelyard").folder, "AutoModelForCausalLM")
    expected = output(model)
    plain = model.dequantize()
    assert not any(isinstance(module, Packed) for module in plain.modules())
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    torch.testing.assert_close(output(plain), expected, rtol=1e-5, atol=2e-5)
    plain.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_results_follow_the_models_type(written: Build) -> None:
    made = written("bert", "float32", "steelyard")
    model, _ = loaded(made.folder, "AutoModel", dtype=torch.bfloat16)
    assert output(model).dtype == torch.bfloat16
    model, _ = loaded(made.folder, "AutoModel")
    assert output(model.to(torch.float16)).dtype == torch.float16
    assert all(m.weight.dtype == torch.uint8 for m in model.modules() if isinstance(m, Packed))


def test_kept_weights_give_the_same_results(written: Build) -> None:
    folder = written("llama-tied", "float32", "steelyard").folder
    once, kept = load(folder), load(folder, keep_decoded=True)
    assert type(kept).__name__ == "LlamaForCausalLM"
    first = output(kept)
    torch.testing.assert_close(first, output(once), rtol=1e-6, atol=1e-6)
    assert torch.equal(output(kept), first)
    linear = kept.model.layers[0].mlp.down_proj
    assert linear._kept is not None and once.model.layers[0].mlp.down_proj._kept is None
    assert "_kept" not in "".join(kept.state_dict())


def test_the_public_name_stays_a_function() -> None:
    import steelyard
    import steelyard.loading

    assert steelyard.load is load is steelyard.loading.load


def test_state_dicts_hold_the_bytes_and_nothing_new(written: Build) -> None:
    made = written("llama-tied", "float32", "steelyard")
    model, _ = loaded(made.folder, "AutoModelForCausalLM")
    state = model.state_dict()
    assert set(state) == {*made.decoded, "lm_head.weight"}
    other, _ = loaded(made.folder, "AutoModelForCausalLM")
    with torch.no_grad():
        other.model.embed_tokens.weight.zero_()
    other.load_state_dict(state, strict=True)
    assert torch.equal(output(other), output(model))
    assert next(model.parameters()).dtype == model.dtype == torch.float32


def test_inputs_get_gradients(written: Build) -> None:
    model, _ = loaded(written("llama", "float32", "steelyard").folder, "AutoModelForCausalLM")
    embedded = model.get_input_embeddings()(IDS).requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert float(embedded.grad.abs().max()) > 0


def test_generating(written: Build) -> None:
    model, _ = loaded(written("llama-tied", "float32", "steelyard").folder, "AutoModelForCausalLM")
    assert model.generate(IDS[:1], max_new_tokens=4, do_sample=False).shape == (1, 24)


def test_a_token_outside_of_the_table_is_refused(written: Build) -> None:
    model, _ = loaded(written("llama", "float32", "steelyard").folder, "AutoModelForCausalLM")
    with pytest.raises(IndexError, match=r"outside of 0\.\.271"):
        model(torch.tensor([[5, 272]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: q.update(version=2), "version 2 of the steelyard format"),
        (lambda q: q["tensors"]["lm_head.weight"]["codec"].update(name="magic"), "no codec is called 'magic'"),
        (lambda q: q["tensors"]["lm_head.weight"]["shape"].reverse(), "cannot stand in"),
        (lambda q: q["tensors"].update({"model.norm.weight": q["tensors"]["lm_head.weight"]}), "cannot stand in"),
        (lambda q: q["tensors"].pop("lm_head.weight"), "lm_head.weight"),
    ],
)
def test_a_config_that_is_not_the_files(
    written: Build, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    folder = copied(written("llama", "float32", "steelyard").folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((UserError, RuntimeError, ValueError), match=message):
        loaded(folder, "AutoModelForCausalLM")


@pytest.mark.parametrize("how", ["missing", "short"])
def test_a_blob_that_is_not_there(written: Build, tmp_path: Path, how: str) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copied(written("llama", "float32", "steelyard").folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    data = tensors.pop(name)
    if how == "short":
        tensors[name] = np.array(data[:-2])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        loaded(folder, "AutoModelForCausalLM")


def copied(folder: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "copy"))
