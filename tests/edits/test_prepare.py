"""Preparations keep the function, in a forward pass of transformers as in our own, and do what they are for."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from steelyard.budget.learning import learn
from steelyard.budget.prepare import PrepareOptions, prepare_folder
from steelyard.codecs import IntegerCodec
from steelyard.edits.prepare import certificate, channels, products, scales
from steelyard.edits.prepare.changes import Changes
from steelyard.edits.prepare.channels import sub_channels
from steelyard.edits.prepare.hadamard import hadamard, odd_part
from steelyard.edits.prepare.network import Network, Pair
from steelyard.edits.prepare.rotation import eigenvectors, moments_between, orthogonal
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.rtn import round_to_nearest
from steelyard.edits.quantize.statistics import Statistics
from steelyard.errors import UserError
from steelyard.jobs import open_model
from tiny_llama import write_tiny

from .matrices import correlated

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
}


def family(folder: Path, model_type: str, tied: bool = False) -> Path:
    """A tiny model of a family, with every bias and norm that the family has, all of them random."""
    classes = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    extra = {"architectures": [f"{classes[model_type]}ForCausalLM"], "sliding_window": None}
    write_tiny(folder, tied, model_type=model_type, **extra, **FAMILIES[model_type])
    tensors = load_file(folder / "model.safetensors")
    draw = np.random.default_rng(2)
    for name in list(tensors):
        short = name.split(".")[-2]
        biased = {"llama": "qkvoguda", "qwen2": "qkv"}.get(model_type, "")
        if short.endswith("_proj") and short[0] in biased:
            bias = 0.1 * draw.standard_normal(len(tensors[name]))
            tensors[name.replace(".weight", ".bias")] = bias.astype(np.float32)
        if model_type == "qwen3" and short in ("q_proj", "k_proj"):
            tensors[name.replace("_proj", "_norm")] = (1 + 0.1 * draw.standard_normal(16)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def run(folder: Path) -> np.ndarray:
    """Logits of our own forward pass."""
    with open_model(folder) as opened:

        def read(name: str) -> np.ndarray:
            return opened.checkpoint.tensor(opened.spec.ties.get(name, name)).astype(np.float64)

        return Network.of(opened.spec).logits(read, certificate.draw_tokens(128))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_rotated_model_is_the_same_in_transformers(tmp_path: Path, model_type: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family(tmp_path / "base", model_type)
    done = prepare_folder(tmp_path / "base", tmp_path / "out", PrepareOptions(method="rotate"))
    assert done.certificate.exact < 1e-12 and 1e-9 < done.certificate.stored < 1e-5
    tokens = torch.tensor(certificate.draw_tokens(128))
    logits = []
    for folder in (tmp_path / "base", tmp_path / "out"):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        with torch.no_grad():
            logits.append(model(tokens).logits.numpy())
        # transformers keeps rotary frequencies in float32.
        assert certificate.relative(run(folder), logits[-1]) < 1e-5
    assert certificate.relative(logits[1], logits[0]) < 1e-5


@pytest.mark.parametrize("method", ["rotate", "equalize"])
def test_a_tied_model(tmp_path: Path, method: Any) -> None:
    family(tmp_path / "base", "llama", tied=True)
    if method == "rotate":
        with pytest.raises(UserError, match="pass --untie"):
            prepare_folder(tmp_path / "base", tmp_path / "out", PrepareOptions(method=method))
        assert not (tmp_path / "out").exists()
    options = PrepareOptions(method=method, untie=method == "rotate", rotation="orthogonal")
    assert prepare_folder(tmp_path / "base", tmp_path / "out", options).certificate.exact < 1e-12
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["tie_word_embeddings"] == (method == "equalize")
    assert ("lm_head.weight" in load_file(tmp_path / "out/model.safetensors")) == (method == "rotate")
    assert certificate.relative(run(tmp_path / "out"), run(tmp_path / "base")) < 1e-5


@pytest.mark.parametrize("method", ["smooth", "awq"])
def test_calibrated_scales_keep_the_function(tmp_path: Path, method: Any) -> None:
    pytest.importorskip("torch")
    family(tmp_path / "base", "qwen2")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(3, 128, 2000))
    options = PrepareOptions(
        method=method, data=str(tmp_path / "tokens.npy"), sequences=8, sequence_length=32, bits=3, group_size=32
    )
    done = prepare_folder(tmp_path / "base", tmp_path / "out", options)
    assert done.certificate.exact < 1e-12 and done.changed > 0
    assert certificate.relative(run(tmp_path / "out"), run(tmp_path / "base")) < 1e-5
    proof = json.loads((tmp_path / "out/preparation.json").read_text())
    assert proof["certificates"][0]["exact"] == done.certificate.exact
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", "tokens.npy"}


@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
@pytest.mark.parametrize("size", [16, 24, 7])
def test_rotations_are_orthogonal(kind: Any, size: int) -> None:
    matrix = orthogonal(size, kind, 0, "test")
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-14)
    assert not np.array_equal(matrix, orthogonal(size, kind, 0, "another"))
    if kind == "hadamard" and size == 16:
        np.testing.assert_allclose(np.abs(matrix), 0.25)


def test_equalized_channels_have_one_range(tmp_path: Path) -> None:
    family(tmp_path / "base", "llama")
    prepare_folder(tmp_path / "base", tmp_path / "out", PrepareOptions(method="equalize", dtype="float32"))
    tensors = load_file(tmp_path / "out/model.safetensors")
    up, down = (np.abs(tensors[f"model.layers.1.mlp.{short}_proj.weight"]) for short in ("up", "down"))
    ratio = up.max(axis=1) / down.max(axis=0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_awq_takes_the_best_power() -> None:
    draw = np.random.default_rng(1)
    weight, moment = correlated(8, 24, 64)
    codec = IntegerCodec(3, 32, True, "F32")
    tensors = {"norm": draw.random(64) + 0.5, "linear": weight.astype(np.float64)}
    network = type(
        "Network", (), {"pairs": lambda self: [Pair("norm", ("linear",))], "bias": lambda self, name: None}
    )()
    changes: Changes = scales.activation_aware(network, tensors.__getitem__, lambda name: Statistics(moment), codec)
    lost = {}
    for step in range(20):
        scale = np.diag(moment) ** (step / 40)
        scale /= np.sqrt(scale.max() * scale.min())
        inner = Statistics(np.diag(moment) / scale**2)
        decoded = round_to_nearest(tensors["linear"] * scale, codec, inner).decode() / scale
        lost[step] = error(tensors["linear"], decoded, moment), scale
    best = min(lost, key=lambda step: lost[step][0])
    assert best > 0 and lost[best][0] < 0.95 * lost[0][0]
    np.testing.assert_allclose(changes.of("linear").columns[0], lost[best][1], rtol=1e-6)
    np.testing.assert_allclose(changes.of("norm").rows[0], 1 / lost[best][1], rtol=1e-6)


def test_other_families_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path / "base", model_type="olmo2")
    with pytest.raises(UserError):
        prepare_folder(tmp_path / "base", tmp_path / "out")


def mamba(folder: Path, tied: bool = False) -> Path:
    """A tiny Mamba of transformers, every tensor of it random."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(
        vocab_size=128,
        hidden_size=48,
        state_size=8,
        num_hidden_layers=2,
        tie_word_embeddings=tied,
        time_step_rank=5,
    )
    torch.manual_seed(3)
    model = transformers.MambaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def test_the_forward_pass_of_mamba_is_that_of_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = mamba(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor(certificate.draw_tokens(128))).logits.numpy()
    assert certificate.relative(logits, run(folder)) < 1e-5


@pytest.mark.parametrize("method", ["rotate", "equalize"])
def test_a_prepared_mamba_is_the_same_in_transformers(tmp_path: Path, method: Any) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = mamba(tmp_path / "base", tied=True)
    done = prepare_folder(folder, tmp_path / "out", PrepareOptions(method=method, untie=method == "rotate"))
    assert done.certificate.exact < 1e-10
    tokens, logits = torch.tensor(certificate.draw_tokens(128)), []
    for at in (folder, tmp_path / "out"):
        model = transformers.AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32)
        with torch.no_grad():
            logits.append(model(tokens).logits.numpy())
    assert certificate.relative(logits[1], logits[0]) < 1e-4


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 24, 28, 36, 52, 96, 768])
def test_hadamard_matrices(size: int) -> None:
    rest = odd_part(size)
    matrix = hadamard(size // rest)
    assert rest == (13 if size == 52 else 1) and set(np.unique(matrix)) <= {-1.0, 1.0}
    assert np.array_equal(matrix @ matrix.T, len(matrix) * np.eye(len(matrix)))


def test_klt_gives_every_channel_one_power(tmp_path: Path) -> None:
    """MambaQuant's equation: the diagonal of (K H)^T C K H is the mean eigenvalue of C; of H^T C H it is not."""
    draw = np.random.default_rng(0)
    moment = np.cov(draw.standard_normal((64, 400)) * np.exp(draw.standard_normal((64, 1))))
    plain = orthogonal(64, "hadamard", 0, "test")
    joined = eigenvectors(moment) @ plain
    np.testing.assert_allclose(np.diag(joined.T @ moment @ joined), np.trace(moment) / 64, rtol=1e-12)
    assert np.ptp(np.diag(plain.T @ moment @ plain)) > 0.1 * np.trace(moment) / 64
    assert moments_between(Pair("v", ("o",), 2, 4), {}.__getitem__, lambda name: np.eye(16)).shape == (2, 4, 4)


def test_klt_equalizes_a_model_where_hadamard_alone_does_not(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    family(tmp_path / "base", "llama")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(3, 128, 2000))
    asked: dict[str, Any] = {"data": str(tmp_path / "tokens.npy"), "sequences": 8, "sequence_length": 32}
    spread = {}
    for kind in ("klt", "hadamard"):
        options = PrepareOptions(
            method="rotate", rotation=kind, dtype="float32", **(asked if kind == "klt" else {})
        )
        done = prepare_folder(tmp_path / "base", tmp_path / kind, options)
        assert done.certificate.exact < 1e-11
        kept = tmp_path / f"{kind}.safetensors"
        with open_model(tmp_path / kind) as opened:
            learned = learn(opened, PrepareOptions(calibration=str(kept), **asked), tmp_path)
            assert learned.calibration is not None
            moment = learned.calibration.second_moment("model.layers.1.self_attn.o_proj.weight")
            learned.close()
        # Both heads that read a head of values, together: what one rotation can make equal.
        power = np.diag(moment).reshape(2, 2, 16).sum(axis=1)
        spread[kind] = float((power.std(axis=1) / power.mean(axis=1)).max())
    assert spread["klt"] < 1e-3 < 0.1 < spread["hadamard"]


def test_split_channels_keep_the_function_and_the_bound() -> None:
    largest = np.array([8.0, 1.0, 5.0, 0.5])
    copies = sub_channels(largest, 5)
    assert copies.sum() == 9
    # No other way to add five has a smaller greatest part.
    every = [np.array(c) for c in itertools.product(range(1, 7), repeat=4) if sum(c) == 9]
    assert (largest / copies).max() == min((largest / c).max() for c in every)


@pytest.mark.parametrize("assemble", [False, True])
def test_disassembly_in_transformers(tmp_path: Path, assemble: bool) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family(tmp_path / "base", "llama")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(3, 128, 2000))
    options = PrepareOptions(
        method="disassemble",
        extra=16,
        assemble=assemble,
        data=str(tmp_path / "tokens.npy"),
        sequences=8,
        sequence_length=32,
    )
    done = prepare_folder(tmp_path / "base", tmp_path / "out", options)
    assert done.certificate.exact < 1e-12 and bool(done.certificate.beyond) == assemble
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["intermediate_size"] == (128 if assemble else 144)
    before, after = (load_file(tmp_path / at / "model.safetensors") for at in ("base", "out"))
    down = "model.layers.0.mlp.down_proj.weight"
    assert after[down].shape == (64, config["intermediate_size"])
    tokens, logits = torch.tensor(certificate.draw_tokens(128)), []
    for folder in ("base", "out"):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype=torch.float64)
        with torch.no_grad():
            logits.append(model(tokens).logits.numpy())
    found = certificate.relative(logits[1], logits[0])
    assert 0.01 < found < 0.9 if assemble else found < 1e-5
    if assemble:
        assert found == pytest.approx(done.certificate.stored, rel=0.01)
    else:
        columns = {column.tobytes() for column in after[down].T}
        assert columns == {column.tobytes() for column in before[down].T}


def test_joined_channels_are_joined_as_well_as_can_be(tmp_path: Path) -> None:
    """Two channels that are multiples of each other are joined without loss."""
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((200, 40))
    inputs[:, 12] = -3.0 * inputs[:, 31]
    weight = draw.standard_normal((6, 40))
    dropped, into, share = channels._pairs(weight, inputs.T @ inputs / 200, np.arange(40), 1)
    assert {int(dropped[0]), int(into[0])} == {12, 31} and share[0] in (pytest.approx(-3.0), pytest.approx(-1 / 3))


def bert(folder: Path) -> Path:
    """A tiny BERT of transformers, every tensor of it random."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=128, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    torch.manual_seed(3)
    model = transformers.BertModel(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def test_queries_and_keys_of_bert_keep_its_function(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = bert(tmp_path / "base")
    done = prepare_folder(folder, tmp_path / "out", PrepareOptions(method="query-key", values=True))
    assert done.certificate.exact < 1e-10 and done.changed == 2 * 7
    tokens, states = torch.tensor(certificate.draw_tokens(128)), []
    for at in (folder, tmp_path / "out"):
        model = transformers.AutoModel.from_pretrained(at, dtype=torch.float64)
        with torch.no_grad():
            states.append(model(tokens).last_hidden_state.numpy())
        assert certificate.relative(run(at), states[-1]) < 1e-6
    assert certificate.relative(states[1], states[0]) < 1e-5
    with pytest.raises(UserError, match="layer norms"):
        prepare_folder(folder, tmp_path / "other", PrepareOptions(method="rotate"))


def test_values_of_llama_and_nothing_in_mamba(tmp_path: Path) -> None:
    options = PrepareOptions(method="query-key", values=True)
    done = prepare_folder(family(tmp_path / "a", "llama"), tmp_path / "b", options)
    assert done.certificate.exact < 1e-11 and done.changed == 2 * 3
    with pytest.raises(UserError, match="nothing in a mamba"):
        prepare_folder(mamba(tmp_path / "m"), tmp_path / "n", PrepareOptions(method="query-key"))


def test_the_best_factors_of_a_product_are_the_best() -> None:
    draw = np.random.default_rng(0)
    a, b = (
        draw.standard_normal((1, 8, 20)),
        np.exp(draw.standard_normal((1, 8, 1))) * draw.standard_normal((1, 8, 30)),
    )
    one, other = products.bases(a, b, orthogonal(8, "hadamard", 0, "test"))
    first, second = one @ a, other @ b
    np.testing.assert_allclose(first[0].T @ second[0], a[0].T @ b[0], atol=1e-12)

    def cost(first: np.ndarray, second: np.ndarray) -> float:
        return float(((first**2).sum(axis=-1) * (second**2).sum(axis=-1)).sum())

    bound = np.linalg.svd(a[0].T @ b[0])[1].sum() ** 2 / 8
    assert cost(first, second) == pytest.approx(bound)
    for _ in range(50):
        mixing = draw.standard_normal((8, 8))
        assert cost(mixing @ a, np.linalg.inv(mixing).T @ b) > bound
    same = products.bases(np.zeros((1, 4, 9)), np.ones((1, 4, 9)), orthogonal(4, "hadamard", 0, "test"))
    assert np.array_equal(same[0][0], np.eye(4))
