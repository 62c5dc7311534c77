"""Make `tests/merge/golden/gates.npz`: gates as mergekit 0.1.5 makes them for a model of `tokenizers.npz`.

Run with an interpreter that has mergekit 0.1.5: python benchmarks/peers/mergekit_gates.py TOKENIZERS.npz OUT.npz
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from mergekit.common import ModelReference
from mergekit.moe.config import Expert
from mergekit.moe.router import get_gate_params
from safetensors.torch import save_file
from transformers import AutoTokenizer

PROMPTS = [
    {"positive_prompts": ["ab c", "hgf"], "negative_prompts": ["both a"]},
    {"positive_prompts": ["d e d e"]},
    {"positive_prompts": ["abc both ab"], "negative_prompts": ["c", "gh"]},
]


def main(tokenizers: Path, out: Path) -> None:
    """Write the gates of every mode."""
    arrays: dict[str, np.ndarray] = {"prompts": np.array(json.dumps(PROMPTS))}
    with np.load(tokenizers) as given, tempfile.TemporaryDirectory() as work:
        tensors = {}
        for name in given.files:
            if name.startswith("first/tensors/"):
                tensors[name.removeprefix("first/tensors/")] = torch.from_numpy(given[name])
            elif name.startswith("first/"):
                (Path(work) / name.removeprefix("first/")).write_text(str(given[name]))
        save_file(tensors, f"{work}/model.safetensors", metadata={"format": "pt"})
        tokenizer = AutoTokenizer.from_pretrained(work)
        tokenizer.padding_side = "left"
        tokenizer.pad_token_id = tokenizer.bos_token_id
        reference = ModelReference.model_validate(work)
        experts = [Expert(source_model=reference, **prompts) for prompts in PROMPTS]
        for mode in ("hidden", "cheap_embed"):
            gates = get_gate_params(reference, tokenizer, experts, mode=mode, device="cpu")
            arrays[mode] = gates.float().numpy()
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
