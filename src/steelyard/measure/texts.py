"""Documents to calibrate on and to measure with: text files, folders, JSON lines, token files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from steelyard.errors import UserError

# fmt: off
TEXT_SUFFIXES = frozenset({
    ".txt", ".md", ".rst", ".tex", ".html", ".xml", ".csv", ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".rs",
    ".go", ".java", ".js", ".ts", ".sh", ".toml", ".yaml", ".yml",
})
# fmt: on
TOKEN_SUFFIXES = frozenset({".npy", ".bin"})


@dataclass(frozen=True)
class Document:
    """One document: a text, or the tokens of one.

    Attributes:
        name: where it comes from; unique within a corpus.
        text: its text, None for a token file.
        tokens: its tokens [n] int64, None for a text.
        source: what it was cut from where others were too, such as the file of a docstring; they share their words.
    """

    name: str
    text: str | None = None
    tokens: np.ndarray | None = None
    source: str | None = None

    def is_empty(self) -> bool:
        """Tell whether there is nothing in it."""
        return not (self.text or "").strip() if self.tokens is None else self.tokens.size == 0

    def digest(self) -> str:
        """Hash of the content: the same content has the same digest under any name."""
        if self.text is not None:
            return hashlib.sha256(b"text" + self.text.encode("utf-8", "surrogatepass")).hexdigest()
        assert self.tokens is not None
        return hashlib.sha256(b"tokens" + self.tokens.astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Corpus:
    """Documents and, in words, what they are; the words go into the report."""

    documents: tuple[Document, ...]
    description: str

    def split(self, held_out: float = 0.25) -> tuple[Corpus, Corpus]:
        """Return two disjoint corpora: one to calibrate on, one to measure with.

        Documents are told apart by a hash of their content, so copies of one document land on the same side. A
        single document is cut in two.

        Args:
            held_out: share of the documents to measure with, in (0, 1).
        """
        digests = {document.name: document.digest() for document in self.documents}
        order = sorted(set(digests.values()))
        if len(order) == 1:
            return self._cut(self.documents[0], held_out)
        count = min(len(order) - 1, max(1, round(len(order) * held_out)))
        chosen = set(order[:count])
        calibration = tuple(d for d in self.documents if digests[d.name] not in chosen)
        measured = tuple(d for d in self.documents if digests[d.name] in chosen)
        return (
            Corpus(calibration, f"{self.description}; {len(calibration)} documents for calibration"),
            Corpus(measured, f"{self.description}; {len(measured)} documents held out"),
        )

    def _cut(self, document: Document, held_out: float) -> tuple[Corpus, Corpus]:
        first, second = f"{document.name} (beginning)", f"{document.name} (end)"
        if document.text is not None:
            place = round(len(document.text) * (1 - held_out))
            line = document.text.rfind("\n", 0, place) + 1
            place = line if line > place // 2 else place
            pieces = Document(first, document.text[:place]), Document(second, document.text[place:])
        else:
            assert document.tokens is not None
            place = round(len(document.tokens) * (1 - held_out))
            pieces = (
                Document(first, tokens=document.tokens[:place]),
                Document(second, tokens=document.tokens[place:]),
            )
        if any(piece.is_empty() for piece in pieces):
            raise UserError(f"{document.name} is too short to calibrate on and measure with; pass more text")
        return (
            Corpus(pieces[:1], f"{self.description}; the beginning of its only document for calibration"),
            Corpus(pieces[1:], f"{self.description}; the end of its only document held out"),
        )


@dataclass
class Corpora:
    """Disjoint texts to calibrate on and to measure with, each made when it is first asked for."""

    _calibrate: Callable[[], Corpus]
    _hold_out: Callable[[], Corpus]

    @classmethod
    def of(cls, calibration: Corpus, held_out: Corpus) -> Corpora:
        """Return texts that are at hand."""
        return cls(lambda: calibration, lambda: held_out)

    @cached_property
    def calibration(self) -> Corpus:
        """Texts to calibrate on."""
        return self._calibrate()

    @cached_property
    def held_out(self) -> Corpus:
        """Texts to measure with."""
        return self._hold_out()


def load_documents(paths: str | Path | Sequence[str | Path], field: str = "text") -> Corpus:
    """Read documents from files and folders.

    Args:
        paths: text files (any suffix, UTF-8), .jsonl files (one object per line), token files (.npy of integers,
            .bin of little-endian uint16), or folders, searched recursively for files of these kinds
            (`TEXT_SUFFIXES`).
        field: the field of a .jsonl object that holds its text.

    Raises:
        UserError: if a path is missing, unreadable, not what its suffix says, or holds no text.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    documents: list[Document] = []
    for path in map(Path, given):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder of texts")
        found = [document for file in _files(path) for document in _read(file, field)]
        if not found:
            raise UserError(f"{path} holds no text; pass files or folders with text, or --data none")
        documents.extend(found)
    if not documents:
        raise UserError("no texts were given; name a file or folder, or --data none")
    unique = {document.name: document for document in documents}
    names = ", ".join(map(str, given[:3])) + (", …" if len(given) > 3 else "")
    count = f"{len(unique)} document{'s' if len(unique) > 1 else ''}"
    return Corpus(tuple(unique.values()), f"{count} from {names}")


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    wanted = TEXT_SUFFIXES | TOKEN_SUFFIXES | {".jsonl"}
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix.lower() in wanted and not hidden and file.is_file():
            yield file


def _read(file: Path, field: str) -> Iterable[Document]:
    suffix = file.suffix.lower()
    try:
        if suffix in TOKEN_SUFFIXES:
            tokens = _tokens(file)
            return [Document(str(file), tokens=tokens)] if tokens.size else []
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text; convert it, or pass tokens as .npy or .bin") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    if suffix == ".jsonl":
        return _json_lines(file, text, field)
    return [Document(str(file), text)] if text.strip() else []


def _json_lines(file: Path, text: str, field: str) -> list[Document]:
    documents = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            item = json.loads(line)
        except ValueError:
            raise UserError(f"{where} is not valid JSON") from None
        if not isinstance(item, dict) or not isinstance(item.get(field), str):
            fields = ", ".join(map(str, item)) if isinstance(item, dict) else "none"
            raise UserError(f"{where} has no text in a field {field!r}; its fields: {fields or 'none'}")
        if item[field].strip():
            documents.append(Document(where, item[field]))
    return documents


def _tokens(file: Path) -> np.ndarray:
    if file.suffix.lower() == ".bin":
        data = file.read_bytes()
        if len(data) % 2:
            raise UserError(f"{file} has an odd number of bytes; a .bin token file is little-endian uint16")
        return np.frombuffer(data, dtype="<u2").astype(np.int64)
    try:
        loaded = np.load(file, allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{file} is not a .npy file of numbers; save tokens with numpy.save") from None
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in "iu":
        raise UserError(f"{file} does not hold integers; a token file holds token numbers")
    if loaded.size and int(loaded.min()) < 0:
        raise UserError(f"{file} holds the negative token {int(loaded.min())}")
    return np.asarray(loaded.reshape(-1), dtype=np.int64)
