"""Corpora to make experts of the reference model: text found wherever Steelyard is installed.

Each is split as the reference model's own corpus is, by a hash of the path, so that what an expert is measured on
was seen by neither the expert nor the model it began from. The tests and, among their code, the docstrings are what
the reference model itself was trained on; the others are new to it.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from steelyard.errors import UserError
from steelyard.reference.corpus import SourceFile, Split, files, split_of

_LARGEST_FILE = 400_000
_SHORTEST_PROSE = 200


def texts(topic: str, split: Split) -> list[SourceFile]:
    """Return the texts of a topic in a split, in the order of their names.

    Raises:
        UserError: if there is no such topic, or this machine lacks its files.
    """
    if topic not in TOPICS:
        raise UserError(f"there is no topic {topic!r}; available: {', '.join(TOPICS)}")
    found = list(TOPICS[topic](split))
    if not found:
        raise UserError(f"no files of the topic {topic} in the split {split} on this machine")
    return found


def _tests(split: Split) -> Iterator[SourceFile]:
    """The standard library's tests."""
    for file in files(split):
        folders = file.name.split("/")[:-1]
        if any(folder in ("test", "tests", "idle_test") for folder in folders):
            yield file


def _prose(split: Split) -> Iterator[SourceFile]:
    """The docstrings of the standard library's modules, classes and functions, one text for each file."""
    for file in files(split):
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(file.text)
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        said = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        text = "\n\n".join(doc for doc in said if doc and " " in doc)
        if len(text) >= _SHORTEST_PROSE:
            yield SourceFile(file.name, text + "\n")


def _headers(split: Split) -> Iterator[SourceFile]:
    """The C headers of Python."""
    yield from _below(Path(sysconfig.get_paths()["include"]), "*.h", split)


def _arrays(split: Split) -> Iterator[SourceFile]:
    """The Python sources of NumPy."""
    yield from _numpy("*.py", split)


def _stubs(split: Split) -> Iterator[SourceFile]:
    """The type stubs of NumPy."""
    yield from _numpy("*.pyi", split)


def _numpy(pattern: str, split: Split) -> Iterator[SourceFile]:
    found = importlib.util.find_spec("numpy")
    if found is not None and found.origin is not None:
        yield from _below(Path(found.origin).parent, pattern, split)


def _below(folder: Path, pattern: str, split: Split) -> Iterator[SourceFile]:
    for path in sorted(folder.rglob(pattern)):
        name = path.relative_to(folder).as_posix()
        if split_of(name) == split and path.stat().st_size <= _LARGEST_FILE:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if text.strip():
                yield SourceFile(name, text)


TOPICS: Mapping[str, Callable[[Split], Iterator[SourceFile]]] = {
    "tests": _tests,
    "prose": _prose,
    "headers": _headers,
    "arrays": _arrays,
    "stubs": _stubs,
}
"""The topics by name."""
