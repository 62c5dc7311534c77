"""GGUF files against gguf-py's reader and decoders, and against transformers, which loads them by itself."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFReader, quants
from hypothesis import given, settings
from hypothesis import strategies as st

import steelyard
from formats import folders
from formats.folders import build_tiny
from steelyard.budget.audit import audit
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, TensorPlan
from steelyard.budget.produce import produce
from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.types import LEVELS
from steelyard.errors import UserError, VerificationError
from steelyard.formats import get
from steelyard.formats.container import Container, bound
from steelyard.formats.gguf.metadata import Value
from steelyard.formats.gguf.tokenizer import vocabulary_keys
from steelyard.formats.gguf.writing import GgufTensor, plan_gguf
from steelyard.jobs import open_model

SIZES = {"hidden_size": 256, "intermediate_size": 512}
KINDS = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "bert")
LOADED = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "gpt2")
MORE = {
    "mistral": ("MistralForCausalLM", {"num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", {"num_key_value_heads": 2}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, int]]:
    """Folders of every kind: the model, what was written, and the bytes that were planned."""
    found = {}
    for kind in KINDS:
        place = tmp_path_factory.mktemp(kind)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(folders, "KINDS", folders.KINDS | MORE)
            source = build_tiny(kind, place / "model", "bfloat16", **({} if kind == "gpt2" else SIZES))
        rounds = itertools.cycle(LEVELS)
        with open_model(source) as opened:
            format = bound(get("gguf"), opened.checkpoint, opened.spec)
            assert isinstance(format, Container)
            tensors = {}
            for name, tensor in opened.spec.tensors.items():
                codec = format.kept(opened.spec, name)
                if codec is None:
                    continue
                for candidate in itertools.islice(map(GgufCodec, rounds), len(LEVELS)):
                    if format.supports(opened.spec, name, candidate):
                        codec = candidate
                        break
                tensors[name] = TensorPlan(name, codec, "gguf" if isinstance(codec, GgufCodec) else "")
                assert tensor.name == name
            plan = Plan("gguf", tensors, 10**9)
            done = produce(plan, opened, format, KnowledgeBase(None), place / "out")
        found[kind] = (source, place / "out", done.layout.total_bytes)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_as_planned_and_as_gguf_reads_it(made: dict[str, tuple[Path, Path, int]], kind: str) -> None:
    source, out, planned = made[kind]
    assert (out / "model.gguf").stat().st_size == planned
    reader = GGUFReader(out / "model.gguf")
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    assert {tensor.tensor_type.name for tensor in reader.tensors} & set(LEVELS)
    known = gguf.MODEL_TENSORS[{"gptneox": gguf.MODEL_ARCH.GPTNEOX}.get(kind) or architecture(reader)]
    templates = {gguf.TENSOR_NAMES[tensor] for tensor in known}
    blocks = {template.replace("{bid}", str(bid)) for template in templates for bid in (0, 1)}
    assert {name.rpartition(".")[0] for name in theirs} <= blocks
    with open_model(source) as before, steelyard.open(out) as after:
        assert len(after.names) == len(theirs)
        heads = int(before.spec.config.get("num_attention_heads") or 4)
        for name in after.names:
            codec = after.codec(name)
            ours = after.tensor(name).astype(np.float32)
            tensor = theirs[renamed(name, kind)]
            decoded = np.asarray(quants.dequantize(tensor.data, tensor.tensor_type)).reshape(tensor.shape[::-1])
            if kind.startswith(("llama", "mistral")) and ("q_proj" in name or "k_proj" in name):
                count = heads if "q_proj" in name else 2
                decoded = decoded.reshape(count, -1, 2, decoded.shape[1]).swapaxes(1, 2).reshape(decoded.shape)
            if kind == "gpt_neox" and "query_key_value" in name:
                decoded = decoded.reshape(3, heads, -1, *decoded.shape[1:]).swapaxes(0, 1).reshape(decoded.shape)
            source_name = name if name in before.spec.tensors else "embed_out.weight"
            decoded = decoded.T if before.spec.tensors[source_name].transposed else decoded
            assert np.array_equal(decoded.astype(np.float32), ours), name
            original = before.checkpoint.tensor(source_name).astype(np.float32)
            missed = np.linalg.norm(ours - original) / np.linalg.norm(original)
            assert missed == 0 if codec is None else missed < (0.6 if "TQ" in codec.label else 0.4)


def architecture(reader: GGUFReader) -> gguf.MODEL_ARCH:
    """Return gguf-py's number of the architecture that a file names."""
    name = bytes(reader.fields["general.architecture"].parts[-1]).decode()
    return next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == name)


def renamed(name: str, kind: str) -> str:
    """Return the name that gguf-py's own table gives a tensor of Hugging Face."""
    family = {"gpt_neox": "gptneox", "mistral": "llama"}.get(kind, kind.partition("-")[0])
    number = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == family)
    found = gguf.get_tensor_name_map(number, 2).get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None, name
    return str(found)


@pytest.mark.parametrize("kind", LOADED)
def test_transformers_loads_the_same_weights(made: dict[str, tuple[Path, Path, int]], kind: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    _, out, _ = made[kind]
    model, info = AutoModelForCausalLM.from_pretrained(
        out, gguf_file="model.gguf", output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values())
    state = model.state_dict()
    with steelyard.open(out) as written:
        for name in written.names:
            assert np.array_equal(state[name].numpy(), written.tensor(name).astype(np.float32)), name


def test_damage_to_the_file_is_found(made: dict[str, tuple[Path, Path, int]]) -> None:
    source, out, _ = made["qwen3"]
    assert all(check.status == "pass" for check in audit(out, str(source)))
    data = bytearray((out / "model.gguf").read_bytes())
    record = json.loads((out / "steelyard.json").read_text())
    blocks = next(tensor for tensor in GGUFReader(out / "model.gguf").tensors if tensor.tensor_type.name == "Q4_0")
    data[blocks.data_offset + 1] ^= 0x10  # the exponent of a scale
    (out / "model.gguf").write_bytes(data)
    with pytest.raises(VerificationError, match="has changed"):
        audit(out, str(source))
    record["outputs"].pop("model.gguf")
    (out / "steelyard.json").write_text(json.dumps(record))
    with pytest.raises(VerificationError, match="misses"):
        audit(out, str(source))


def test_models_without_a_place_are_refused(tmp_path: Path) -> None:
    folder = build_tiny("bert-masked", tmp_path / "bert")
    with open_model(folder) as opened, pytest.raises(UserError, match=r"no place for cls\.predictions"):
        bound(get("gguf"), opened.checkpoint, opened.spec)
    scaled = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    folder = build_tiny("llama", tmp_path / "llama", rope_parameters=scaled)
    with open_model(folder) as opened, pytest.raises(UserError, match="dynamic"):
        bound(get("gguf"), opened.checkpoint, opened.spec)


names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)
values = st.one_of(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.floats(width=32, allow_nan=False),
    names,
    st.lists(names, min_size=1, max_size=4),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4),
)


@settings(max_examples=25, deadline=None)
@given(keys=st.dictionaries(names, values, max_size=5), rows=st.integers(1, 9))
def test_headers_are_read_back(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Value], rows: int) -> None:
    keys = {f"x.{key}": value for key, value in keys.items()}
    tensors = [
        GgufTensor("a.weight", "U8", (rows, 34), "Q8_0", (rows, 32)),
        GgufTensor("b.bias", "F32", (rows,), "F32", (rows,)),
    ]
    layout = plan_gguf(tensors, keys)
    (file,) = layout.files
    path = tmp_path_factory.mktemp("header") / "model.gguf"
    path.write_bytes(file.header + bytes(file.size - len(file.header)))
    assert path.stat().st_size == layout.total_bytes
    reader = GGUFReader(path)
    assert [(t.name, tuple(t.shape), t.data_offset) for t in reader.tensors] == [
        ("a.weight", (32, rows), file.offsets["a.weight"]),
        ("b.bias", (rows,), file.offsets["b.bias"]),
    ]
    for key, value in keys.items():
        assert reader.fields[key].contents() == value


def test_golden_bytes_of_a_header() -> None:
    layout = plan_gguf([GgufTensor("w", "F32", (2, 3), "F32", (2, 3))], {"general.architecture": "llama", "n": 7})
    body = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    body += struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    body += struct.pack("<Q", 1) + b"n" + struct.pack("<II", 4, 7)
    body += struct.pack("<Q", 1) + b"w" + struct.pack("<IQQIQ", 2, 3, 2, 0, 0)
    assert layout.files[0].header == body + bytes(-len(body) % 32)
    assert layout.total_bytes == len(layout.files[0].header) + 32


def test_a_byte_level_vocabulary_is_the_tokenizers() -> None:
    from transformers import AutoTokenizer

    from steelyard import reference

    folder = Path(str(reference.path()))

    def read(name: str) -> bytes | None:
        path = folder / name
        return path.read_bytes() if path.exists() else None

    keys = vocabulary_keys(read, 4100, {"eos_token_id": 0})
    tokens, tokenizer = keys["tokenizer.ggml.tokens"], AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokens, list) and tokens[:4096] == tokenizer.convert_ids_to_tokens(list(range(4096)))
    assert tokens[4096:] == [f"[PAD{i}]" for i in range(4096, 4100)]
    assert keys["tokenizer.ggml.pre"] == "gpt-2" and keys["tokenizer.ggml.eos_token_id"] == 0
    with pytest.raises(UserError, match="embedding table 9 rows"):
        vocabulary_keys(read, 9, {})
