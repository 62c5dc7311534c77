"""`quantize --codec` and `--policy`: any registered codec, and tensors with a codec of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steelyard.budget.options import FitOptions
from steelyard.budget.planning import Planner
from steelyard.budget.policies import decisions
from steelyard.budget.quantize import QuantizeOptions, plan_quantize, quantize_folder
from steelyard.codecs import DenseCodec, EntropyCodec, IntegerCodec, names
from steelyard.codecs.naming import SHORT, named
from steelyard.errors import UserError
from steelyard.formats import get as get_format
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import open_model
from tiny_llama import write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_tiny(folder, dtype="bfloat16")
    return folder


def test_short_names_and_texts_name_registered_codecs() -> None:
    assert {named(short).name for short in SHORT} <= set(names())
    assert named("int3:group_size=32,symmetric=false", "F16") == IntegerCodec(3, 32, False, "F16")
    assert named("entropy:base=(int4:group_size=128)", "F16").label == "int4 g128 sym f16 entropy"
    assert named("grid:step=0.7").label == "grid 0.7 entropy"
    assert named("fp8-block").label == "e4m3 128x128"


@pytest.mark.parametrize(
    ("codec", "format"),
    [
        ("nf4", "steelyard"),
        ("mxfp4", "compressed-tensors"),
        ("fp8", "compressed-tensors"),
        ("trilm", "steelyard"),
        ("grid:step=0.5", "steelyard"),
        ("entropy:base=(int4:group_size=32)", "steelyard"),
    ],
)
def test_any_codec_is_written_read_and_close(model: Path, tmp_path: Path, codec: str, format: str) -> None:
    done = quantize_folder(model, tmp_path / "out", QuantizeOptions(codec=codec, data="none"))
    with open_model(model) as base, LogicalCheckpoint.open(done.out) as made:
        assert plan_quantize(base, QuantizeOptions(codec=codec))[0].format == format
        linear = [n for n in base.spec.quantizable() if base.spec.tensors[n].kind == "linear"]
        for name in linear:
            weight = base.checkpoint.tensor(name).astype(np.float32)
            lost = np.linalg.norm(made.tensor(name).astype(np.float32) - weight) / np.linalg.norm(weight)
            assert 0 < lost < (0.75 if codec == "trilm" else 0.25)
    assert done.encoded == len(linear)


def test_entropy_coding_changes_bytes_and_nothing_else(model: Path, tmp_path: Path) -> None:
    about = {"embeddings": True, "format": "steelyard"}
    plain = quantize_folder(model, tmp_path / "plain", QuantizeOptions(codec="int4:group_size=128", **about))
    coded = quantize_folder(
        model, tmp_path / "coded", QuantizeOptions(codec="entropy:base=(int4:group_size=128)", **about)
    )
    assert coded.nbytes < plain.nbytes
    with LogicalCheckpoint.open(plain.out) as first, LogicalCheckpoint.open(coded.out) as second:
        assert all(np.array_equal(first.tensor(name), second.tensor(name)) for name in first.names)


def test_policies_say_what_tensors_become(model: Path) -> None:
    with open_model(model) as opened:
        spec = opened.spec
        layers = sorted({t.layer for t in spec.tensors.values() if t.layer is not None})
        first = decisions(spec, ["keep-first=1"])
        assert {spec.tensors[name].layer for name in first} == {layers[0]}
        assert all(decision.codec is None for decision in first.values())
        mixed = decisions(spec, ["mlp.*:6", "mlp.down:nf4", "keep=attn.q"])
        for name, decision in mixed.items():
            role = spec.tensors[name].role
            label = None if decision.codec is None else decision.codec.label
            assert label == {"mlp.down": "nf4 b64", "attn.q": None}.get(str(role), "int6 g64 sym")
        glm = decisions(spec, ["glm-int4"])
        assert glm["model.layers.0.self_attn.q_proj.weight"].codec == IntegerCodec(4, None, True)
        assert glm["model.embed_tokens.weight"].codec is None
        options = QuantizeOptions(policy=("keep-last=1", "attn.v:8"), group_size=32)
        plan, kept = plan_quantize(opened, options)
        assert plan.tensors[f"model.layers.{layers[-1]}.mlp.up_proj.weight"].codec is None
        value = plan.tensors[f"model.layers.{layers[-1]}.self_attn.v_proj.weight"].codec
        assert isinstance(value, IntegerCodec) and value.bits == 8
        assert f"model.layers.{layers[-1]}.mlp.up_proj.weight" in kept
        assert not any(isinstance(item.codec, DenseCodec) for item in plan.tensors.values())


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("experts-int8", "speaks of no tensor here"),
        ("keep-first=9", "layers"),
        ("attn.w:8", "roles: attn.k"),
        ("keep_first=1", "no policy"),
        ("attn.v:nf9", "did you mean nf"),
    ],
)
def test_policies_that_cannot_be_followed(model: Path, policy: str, said: str) -> None:
    with open_model(model) as opened, pytest.raises(UserError, match=said):
        decisions(opened.spec, [policy])


def test_policies_leave_fit_one_choice(model: Path) -> None:
    with open_model(model) as opened:
        native = get_format("steelyard")
        options = FitOptions(bits=4, format="steelyard", policy=("keep-first=1", "mlp.down:6"), entropy=False)
        menu = {offer.group: offer for offer in Planner(opened, native, options).menu}
        first = menu["model.layers.0.mlp.down_proj.weight"]
        assert [codec for choice in first.choices for _, codec in choice] == [IntegerCodec(6, 64, True)]
        assert all(codec is None for choice in menu["model.layers.0.self_attn.qkv"].choices for _, codec in choice)
        assert len(menu["model.layers.1.self_attn.qkv"].choices) > 5
        coded = [codec for offer in menu.values() for choice in offer.choices for _, codec in choice]
        assert not any(isinstance(codec, EntropyCodec) for codec in coded)
        with pytest.raises(UserError, match=r"part of model\.layers\.0\.self_attn\.qkv.*--no-fuse"):
            Planner(opened, native, FitOptions(bits=4, policy=("attn.v:8",)))
        with pytest.raises(UserError, match="use --format steelyard"):
            Planner(opened, get_format("compressed-tensors"), FitOptions(bits=4, policy=("mlp.down:nf4",)))
