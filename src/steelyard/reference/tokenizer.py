"""The reference model's tokenizer: byte-level byte-pair encoding trained on its corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

END_OF_TEXT = "<|endoftext|>"
"""Stands before every document; the only special token."""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a `tokenizers.Tokenizer` of `vocabulary` entries, token 0 being `END_OF_TEXT`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the files from which `AutoTokenizer.from_pretrained` builds the tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def encode_stream(tokenizer: Any, texts: Iterable[str]) -> np.ndarray:
    """Return all documents as one stream of uint16 tokens, each document led by `END_OF_TEXT`."""
    start = tokenizer.token_to_id(END_OF_TEXT)
    pieces: list[int] = []
    for encoding in tokenizer.encode_batch(list(texts)):
        pieces.append(start)
        pieces.extend(encoding.ids)
    return np.array(pieces, dtype=np.uint16)
