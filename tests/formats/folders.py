"""Tiny model folders and a way to write them in any format with nothing but the public floors."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.codecs import Codec, DenseCodec, IntegerCodec, LowRankCodec, SumCodec
from steelyard.formats import Format, get
from steelyard.formats.verify import relative_error
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint, FolderWriter, Layout, plan_layout
from steelyard.weights.layout import StoredTensor

VOCABULARY = 272

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
}
_GROUPED = {"num_key_value_heads": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _GROUPED),
    "llama-tied": ("LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**_GROUPED, "head_dim": 16}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt_neox": ("GPTNeoXForCausalLM", {"rotary_pct": 0.25}),
    "bert": ("BertModel", {"pad_token_id": 0}),
    "bert-masked": ("BertForMaskedLM", {"pad_token_id": 0}),
}

PLAIN = (DenseCodec("F16"),)
"""What every format takes for a float32 tensor."""


def integers(scale: str) -> list[Codec]:
    """Integer codecs of all bits, symmetric or not, by group and by row."""
    sizes = itertools.cycle((16, 32, None))
    return [
        IntegerCodec(bits=bits, group_size=next(sizes), symmetric=symmetric, scale_dtype=scale)
        for bits in (8, 3, 5, 2, 7, 4, 6)
        for symmetric in (True, False)
    ]


def every_codec(scale: str) -> list[Codec]:
    """Integers, floats of eight bits, low-rank products and sums."""
    extra: list[Codec] = [
        DenseCodec("F8_E4M3"),
        LowRankCodec(rank=7, dtype=scale),
        SumCodec(IntegerCodec(3, 32, False, scale), LowRankCodec(rank=5, dtype=scale)),
    ]
    rounds = zip(itertools.cycle(extra), integers(scale), strict=False)
    return [codec for pair in rounds for codec in pair]


def build_tiny(kind: str, folder: Path, dtype: str = "float32", **changes: Any) -> Path:
    """Save a tiny random model, the same one every time."""
    import torch
    import transformers

    name, settings = KINDS[kind]
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**{**_COMMON, **settings, **changes}))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            spread = 0.1 if parameter.dim() == 1 else 1.2 * parameter.shape[-1] ** -0.5
            centre = float(parameter.dim() == 1 and parameter_name.endswith("weight"))
            parameter.copy_(torch.randn_like(parameter) * spread + centre)
    model.tie_weights()
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Written:
    """A folder and what it should hold.

    Attributes:
        folder: where.
        codecs: of every encoded tensor.
        decoded: what every tensor of the result should read as, in the shape the model has.
        errors: relative error of every encoded tensor.
        layout: the planned weight files.
        source: the folder it was made from.
        spec: of the source.
        origin: source tensor of each tensor of the result.
    """

    folder: Path
    codecs: Mapping[str, Codec]
    decoded: Mapping[str, np.ndarray]
    errors: Mapping[str, float]
    layout: Layout
    source: Path
    spec: ModelSpec
    origin: Mapping[str, str]

    def original(self, name: str) -> np.ndarray:
        """The source tensor a tensor of the result is made from."""
        with Checkpoint.open(self.source) as checkpoint:
            return np.array(checkpoint.tensor(self.origin[name]))

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the result."""
        return {name: array.shape for name, array in self.decoded.items()}


def choose(spec: ModelSpec, format: Format, menu: Sequence[Codec], apart: bool) -> dict[str, Codec]:
    """Give each matrix the next codec of the menu that the format supports; `apart` writes tied heads too."""
    rounds = itertools.cycle(menu)
    chosen: dict[str, Codec] = {}
    heads = [alias for alias in spec.ties if alias.endswith(".weight")] if apart else []
    shared = not format.packs_tied and not apart
    for name in [*spec.quantizable(), *heads]:
        if shared and name in spec.ties.values():
            continue
        for codec in itertools.islice(rounds, len(menu)):
            if format.supports(spec, name, codec):
                chosen[name] = codec
                break
    return chosen


def write_folder(
    source: Path,
    out: Path,
    format_name: str,
    menu: Iterable[Codec] = (),
    apart: bool = False,
    codecs: Mapping[str, Codec] | None = None,
) -> Written:
    """Encode a model folder with codecs from a menu, or with those given, and write it."""
    format = get(format_name)
    with Checkpoint.open(source) as checkpoint:
        spec = ModelSpec.build(checkpoint.config, checkpoint.shapes())
        chosen = choose(spec, format, list(menu), apart) if codecs is None else dict(codecs)
        # Whatever else was tied has to be written too once a tied pair is written apart.
        names = [*spec.tensors, *(spec.ties if any(name in spec.ties for name in chosen) else ())]
        origin = {name: spec.ties.get(name, name) for name in names}
        stored: dict[str, list[StoredTensor]] = {}
        for name in names:
            tensor = spec.tensors[origin[name]]
            plain = [StoredTensor(name, tensor.dtype, tensor.shape)]
            stored[name] = format.stored(spec, name, chosen[name]) if name in chosen else plain
        layout = plan_layout([tensor for group in stored.values() for tensor in group])
        decoded: dict[str, np.ndarray] = {}
        errors: dict[str, float] = {}
        with FolderWriter(out, layout, source=source) as writer:
            for name in names:
                tensor = spec.tensors[origin[name]]
                weight = checkpoint.tensor(origin[name])
                if name not in chosen:
                    decoded[name] = np.array(weight)
                    writer.write(name, weight)
                    continue
                matrix = np.ascontiguousarray(weight.T if tensor.transposed else weight)
                parts = chosen[name].encode(matrix, name)
                result = chosen[name].decode(parts, matrix.shape)
                decoded[name] = np.ascontiguousarray(result.T) if tensor.transposed else result
                errors[name] = relative_error(weight, decoded[name])
                for part, array in format.pack(spec, name, chosen[name], parts).items():
                    writer.write(part, array)
            config = format.config(spec, checkpoint.config, chosen)
            writer.add_file("config.json", json.dumps(config, indent=1).encode())
            writer.carry(checkpoint, [n for n in checkpoint.other_files if n != "config.json"])
            folder = writer.finish()
    return Written(folder, chosen, decoded, errors, layout, source, spec, origin)


def write_reference(written: Written, out: Path) -> Path:
    """Write what a folder stands for as plain numbers in the model's own type, for transformers to load."""
    import torch
    from safetensors.torch import save_file

    with Checkpoint.open(written.source) as checkpoint:
        config = dict(checkpoint.config)
    kind = getattr(torch, config["dtype"])
    if any(name in written.spec.ties for name in written.decoded):
        config["tie_word_embeddings"] = False
    tensors = {name: torch.from_numpy(array.astype(np.float32)).to(kind) for name, array in written.decoded.items()}
    out.mkdir(parents=True)
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    return out
