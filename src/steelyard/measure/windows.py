"""Documents cut into windows of tokens, and windows gathered into batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from steelyard.errors import UserError
from steelyard.measure.texts import Corpus, Document
from steelyard.measure.tokenizer import ModelTokenizer, require_tokenizer

Task = Literal["causal", "masked", "encoder"]

IGNORED = -100
"""Label of a position that is not scored."""

# No tokenizer needs more characters than this for a token on average; longer texts are not read to the end.
_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class Window:
    """A run of tokens the model sees at once.

    Attributes:
        document: number of its document in the set.
        inputs: tokens [n] int64.
        labels: [n] int64, what is to be predicted at each position; `IGNORED` where nothing is.
        nbytes: bytes of text the scored positions stand for, None if unknown.
    """

    document: int
    inputs: np.ndarray
    labels: np.ndarray
    nbytes: int | None


@dataclass(frozen=True)
class Batch:
    """Windows side by side, padded on the right.

    Attributes:
        windows: their numbers [b] in the set.
        inputs: [b, t] int64.
        labels: [b, t] int64.
        lengths: [b] int64.
    """

    windows: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """[b, t] bool: positions that are not padding."""
        return np.arange(self.inputs.shape[1])[None, :] < self.lengths[:, None]


@dataclass(frozen=True)
class TokenSet:
    """The windows a statistic is gathered over.

    Attributes:
        names: of the documents.
        windows: in the order they were chosen.
        description: in words, what the texts are.
        sources: what each document was cut from: its own name, unless several are of one source.
    """

    names: tuple[str, ...]
    windows: tuple[Window, ...]
    description: str
    sources: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Number of input tokens."""
        return sum(len(window.inputs) for window in self.windows)

    def save(self, path: Path) -> None:
        """Write the windows to a .npz file, from which `load` reads them again."""
        about = {
            "names": list(self.names),
            "description": self.description,
            "sources": list(self.sources),
            "documents": [window.document for window in self.windows],
            "bytes": [window.nbytes for window in self.windows],
            "lengths": [len(window.inputs) for window in self.windows],
        }
        inputs = np.concatenate([window.inputs for window in self.windows])
        labels = np.concatenate([window.labels for window in self.windows])
        np.savez(path, inputs=inputs, labels=labels, about=np.array(json.dumps(about)))

    @classmethod
    def load(cls, path: Path) -> TokenSet:
        """Inverse of `save`."""
        with np.load(path, allow_pickle=False) as saved:
            about = json.loads(str(saved["about"]))
            cuts = np.cumsum(about["lengths"])[:-1]
            inputs, labels = (np.split(saved[name], cuts) for name in ("inputs", "labels"))
        parts = zip(about["documents"], inputs, labels, about["bytes"], strict=True)
        windows = tuple(Window(*part) for part in parts)
        return cls(tuple(about["names"]), windows, about["description"], tuple(about["sources"]))

    def identity(self) -> str:
        """Hash of the tokens, in order."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(len(window.inputs).to_bytes(8, "little"))
            digest.update(window.inputs.astype("<i8").tobytes())
            digest.update(window.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def batches(self, tokens: int) -> list[Batch]:
        """Gather windows of like length into batches of at most `tokens` positions, padding included."""
        order = sorted(range(len(self.windows)), key=lambda i: (-len(self.windows[i].inputs), i))
        batches, begin = [], 0
        while begin < len(order):
            longest = len(self.windows[order[begin]].inputs)
            count = max(1, tokens // longest)
            batches.append(self._batch(order[begin : begin + count]))
            begin += count
        return batches

    def _batch(self, numbers: Sequence[int]) -> Batch:
        chosen = [self.windows[i] for i in numbers]
        lengths = np.array([len(window.inputs) for window in chosen], dtype=np.int64)
        inputs = np.zeros((len(chosen), int(lengths.max())), dtype=np.int64)
        labels = np.full_like(inputs, IGNORED)
        for row, window in enumerate(chosen):
            inputs[row, : len(window.inputs)] = window.inputs
            labels[row, : len(window.labels)] = window.labels
        return Batch(np.array(numbers, dtype=np.int64), inputs, labels, lengths)


def cut(
    corpus: Corpus,
    tokenizer: ModelTokenizer | None,
    task: Task,
    vocabulary: int,
    *,
    sequences: int,
    length: int,
    seed: int = 0,
    location: str = "the model",
) -> TokenSet:
    """Cut documents into windows and choose up to `sequences` of them, spread over the documents.

    Documents are visited in an order drawn from the seed: the first window of each, then the second of each, …

    For a causal model every token of a text is scored once, given what precedes it in its window. A window begins
    with the start token if the tokenizer puts one before every sequence; otherwise the first window begins with
    the beginning- or end-of-text token and later ones with the last token of the window before (the convention of
    rolling log-likelihood). Windows of other models are surrounded by the tokenizer's special tokens, which are
    not scored.

    Args:
        corpus: the documents.
        tokenizer: of the model; needed for texts, not for tokens.
        task: what the model does.
        vocabulary: number of tokens the model knows.
        sequences: the most windows to choose.
        length: the most positions in a window.
        seed: decides the order of the documents.
        location: of the model, for messages.

    Raises:
        UserError: if there is no tokenizer for a text, a token the model does not know, or no token at all.
    """
    if length < 2 + (len(tokenizer.prefix) + len(tokenizer.suffix) if tokenizer else 0):
        raise UserError(f"sequences of {length} tokens are too short; the least is 8")
    order = sorted(range(len(corpus.documents)), key=lambda i: _draw(seed, corpus.documents[i].name))
    per_document: list[list[Window]] = []
    for number, index in enumerate(order[: max(1, sequences)]):
        document = corpus.documents[index]
        # Windows are taken in turns, so that a document gives more than its share only where others are short.
        per_document.append(_windows(document, number, tokenizer, task, vocabulary, sequences, length, location))
    chosen: list[Window] = []
    for turn in range(max((len(windows) for windows in per_document), default=0)):
        chosen += [windows[turn] for windows in per_document if turn < len(windows)]
    chosen = chosen[:sequences]
    if not chosen:
        raise UserError(f"no tokens in {corpus.description}; pass more text")
    used = [corpus.documents[index] for index in order[: len(per_document)]]
    names, sources = (tuple(of) for of in zip(*((d.name, d.source or d.name) for d in used), strict=True))
    return TokenSet(names, tuple(chosen), corpus.description, sources)


def _draw(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x00{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _windows(
    document: Document,
    number: int,
    tokenizer: ModelTokenizer | None,
    task: Task,
    vocabulary: int,
    sequences: int,
    length: int,
    location: str,
) -> list[Window]:
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    start: int | None = None
    if document.text is None:
        assert document.tokens is not None
        tokens = document.tokens[: sequences * length + 1]
        ends = _decoded_ends(tokenizer, tokens, length)
    else:
        tokenizer = require_tokenizer(tokenizer, location)
        encoding = tokenizer.encode(document.text[: sequences * length * _CHARACTERS_PER_TOKEN])
        tokens, ends = encoding.tokens, encoding.byte_ends
        prefix, suffix, start = tokenizer.prefix, tokenizer.suffix, tokenizer.start
    if tokens.size and int(tokens.max()) >= vocabulary:
        raise UserError(f"{document.name} holds token {int(tokens.max())}; {location} knows {vocabulary} tokens")
    if task == "causal":
        return _causal(number, tokens, ends, prefix, start, sequences, length)
    return _surrounded(number, tokens, ends, prefix, suffix, sequences, length)


def _causal(
    number: int,
    tokens: np.ndarray,
    ends: np.ndarray | None,
    prefix: tuple[int, ...],
    start: int | None,
    sequences: int,
    length: int,
) -> list[Window]:
    windows: list[Window] = []
    place = 0 if start is not None else 1
    while place < len(tokens) and len(windows) < sequences:
        if prefix:
            before = list(prefix)
        elif place == 0:
            assert start is not None
            before = [start]
        else:
            before = [int(tokens[place - 1])]
        stop = min(len(tokens), place + length - len(before) + 1)
        whole = np.concatenate([np.array(before, dtype=np.int64), tokens[place:stop]])
        labels = whole[1:].copy()
        labels[: len(before) - 1] = IGNORED
        windows.append(Window(number, whole[:-1], labels, _bytes_between(ends, place, stop)))
        place = stop
    return windows


def _surrounded(
    number: int,
    tokens: np.ndarray,
    ends: np.ndarray | None,
    prefix: tuple[int, ...],
    suffix: tuple[int, ...],
    sequences: int,
    length: int,
) -> list[Window]:
    windows: list[Window] = []
    room = length - len(prefix) - len(suffix)
    for place in range(0, len(tokens), room):
        stop = min(len(tokens), place + room)
        inputs = np.array([*prefix, *tokens[place:stop], *suffix], dtype=np.int64)
        labels = inputs.copy()
        labels[: len(prefix)] = IGNORED
        labels[len(inputs) - len(suffix) :] = IGNORED
        windows.append(Window(number, inputs, labels, _bytes_between(ends, place, stop)))
        if len(windows) == sequences:
            break
    return windows


def _bytes_between(ends: np.ndarray | None, place: int, stop: int) -> int | None:
    if ends is None:
        return None
    return int(ends[stop - 1]) - (int(ends[place - 1]) if place else 0)


def _decoded_ends(tokenizer: ModelTokenizer | None, tokens: np.ndarray, length: int) -> np.ndarray | None:
    """Where each token would end in the text, by decoding stretches of `length` tokens; exact at their ends."""
    if tokenizer is None:
        return None
    ends = np.zeros(len(tokens), dtype=np.int64)
    total = 0
    for begin in range(0, len(tokens), length):
        stop = min(len(tokens), begin + length)
        size = len(tokenizer.decode(tokens[begin:stop]).encode("utf-8", "replace"))
        ends[begin:stop] = total + np.linspace(0, size, stop - begin + 1)[1:].astype(np.int64)
        total += size
    return ends
