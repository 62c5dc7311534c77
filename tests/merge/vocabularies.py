"""Small models of different vocabularies, and what mergekit made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "golden" / "tokenizers.npz"
MODELS = ("first", "second", "third")
FILES = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json")
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


class Golden:
    """What `benchmarks/peers/mergekit_tokenizers.py` wrote."""

    def __init__(self) -> None:
        with np.load(GOLDEN) as arrays:
            self._arrays = {name: arrays[name] for name in arrays.files}

    @property
    def cases(self) -> list[str]:
        """Names of the recipes."""
        return sorted(name.removesuffix("/recipe") for name in self._arrays if name.endswith("/recipe"))

    def write(self, folder: Path) -> None:
        """Write the models."""
        for model in MODELS:
            place = folder / model
            place.mkdir(parents=True)
            for file in FILES:
                (place / file).write_text(str(self._arrays[f"{model}/{file}"]))
            start = f"{model}/tensors/"
            tensors = {name[len(start) :]: array for name, array in self._arrays.items() if name.startswith(start)}
            save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})

    def recipe(self, case: str, folder: Path) -> str:
        """A recipe's text, naming the models that `write` wrote below a folder."""
        text = str(self._arrays[f"{case}/recipe"])
        for model in MODELS:
            text = text.replace(f": {model}\n", f": {folder}/{model}\n")
        return text

    def vocabulary(self, case: str) -> dict[str, int]:
        """Tokens of mergekit's result."""
        found: dict[str, int] = json.loads(str(self._arrays[f"{case}/vocabulary"]))
        return found

    def rows(self, case: str) -> int:
        """Rows of its embeddings."""
        return int(self._arrays[f"{case}/vocab_size"])

    def merged(self, case: str, tensor: str) -> np.ndarray:
        """A tensor of its result."""
        found: np.ndarray = self._arrays[f"{case}/merged/{tensor}"]
        return found
