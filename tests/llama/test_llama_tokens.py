"""How llama.cpp splits text with our vocabularies, against the tokenizers they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from formats.folders import build_tiny
from formats.test_gguf_vocabulary import pieces, unigram
from llama.conftest import Run
from steelyard.formats.convert import convert_folder
from steelyard.formats.gguf import tokenizer as ours

TEXTS = [
    "Hello world, it's the 12345th time we're here; THEY'LL see!",
    "def f(x):\n    return x + 1\n\n\n\t# \tcomment   \n",
    "naïve café Straße ÉCOLE ¿Qué? 3.14 1,000,000 x/y//z\r\n",
    "多くの日本語 текст на русском 🙂🙂 ... ---",
    "<|im_start|>user\nHi<|im_end|>",
]

SPACED = ["the cat sat on a banana", "a  banana,\u00e4nd 12 dogs\u2026", "\ufb01t the dog", "\u591a\u304f banana"]
PIECES = {
    "pieces": TEXTS[:1],
    "unigram": SPACED,
    "unigram, mapped": [*SPACED, *TEXTS[:3]],
}


def byte_level(steps: list[Any]) -> Tokenizer:
    """Train a byte-level vocabulary of 400 on the texts, split in a way."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<|im_start|>", "<|im_end|>")])
    return tokenizer


def splits() -> dict[str, Tokenizer]:
    """Return a tokenizer of every way of splitting that has a name."""
    level = pre_tokenizers.ByteLevel
    bare = {"add_prefix_space": False, "use_regex": False}
    found = {
        name: byte_level([pre_tokenizers.Split(Regex(pattern), "isolated"), level(**bare)])
        for pattern, name in ours._SPLITS.items()
    }
    found["gpt-2"] = byte_level([level(add_prefix_space=False)])
    found["smollm"] = byte_level([pre_tokenizers.Digits(individual_digits=True), level(add_prefix_space=False)])
    found["pieces"] = pieces()
    found["unigram"] = unigram()
    found["unigram, mapped"] = unigram(precompiled=True)
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with rows enough for every vocabulary."""
    return build_tiny("llama", tmp_path_factory.mktemp("tokens") / "model", vocab_size=480, bos_token_id=None)


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "tekken", "gpt-4o", "gpt-2", "smollm", *PIECES])
def test_llama_cpp_finds_the_same_tokens(llama: Run, plain: Path, tmp_path: Path, name: str) -> None:
    tokenizer = splits()[name]
    folder = tmp_path / "model"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).symlink_to(plain / file)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    made = convert_folder(folder, tmp_path / "out", "gguf")
    texts = PIECES.get(name, TEXTS)
    found = llama("tokens", made.out / "model.gguf", texts=texts)
    for i, text in enumerate(texts):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert np.array_equal(found[str(i)], expected), text
