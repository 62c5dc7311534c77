"""YAML with the line of every value, so that an error can name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from steelyard.errors import UserError

Place = tuple[str | int, ...]
"""Keys and list positions from the top of the document down to a value."""


@dataclass(frozen=True)
class Document:
    """A parsed YAML document.

    Attributes:
        path: the file.
        data: its content as plain data.
        lines: line number, from 1, of every value by its place.
    """

    path: Path
    data: Any
    lines: dict[Place, int]

    def error(self, place: Place, problem: str) -> UserError:
        """Return an error that names the file, the line and the place."""
        line = next((self.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self.lines), 1)
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        return UserError(f"{self.path}, line {line}: {where + ': ' if where else ''}{problem}")


def read_document(path: Path) -> Document:
    """Parse a YAML file of one document.

    Raises:
        UserError: if it cannot be read, is not YAML, or repeats a key; with the line.
    """
    documents = read_documents(path)
    if len(documents) > 1:
        raise documents[1].error((), "one document is expected, and here begins another")
    return documents[0]


def read_documents(path: Path) -> list[Document]:
    """Parse a YAML file of any number of documents, separated by `---`; an empty file is one of nothing.

    Raises:
        UserError: if it cannot be read, is not YAML, or repeats a key; with the line.
    """
    return parse_documents(read_text(path), path)


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}") from None


def parse_documents(text: str, path: Path) -> list[Document]:
    """Parse the documents of a YAML text; `path` is what errors call it.

    Raises:
        UserError: if it is not YAML, or repeats a key; with the line.
    """
    try:
        roots: list[yaml.Node | None] = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: {getattr(error, 'problem', None) or 'not YAML'}") from None
    documents = []
    for root in roots or [None]:
        lines: dict[Place, int] = {}
        data = None if root is None else _value(root, (), lines, path)
        documents.append(Document(path, data, lines))
    return documents


def _value(node: yaml.Node, place: Place, lines: dict[Place, int], path: Path) -> Any:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        # An anchor's keys, taken in with `<<`, give way to those written here.
        mapping: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key_node.tag == "tag:yaml.org,2002:merge":
                parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for part in parts:
                    found = _value(part, place, lines, path)
                    if isinstance(found, dict):
                        merged = {**found, **merged}
                continue
            if key in mapping:
                raise UserError(f"{path}, line {key_node.start_mark.line + 1}: {key!r} is given twice")
            mapping[key] = _value(value_node, (*place, key), lines, path)
            lines[(*place, key)] = key_node.start_mark.line + 1
        return {**merged, **mapping}
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*place, i), lines, path) for i, item in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)
