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
    """A parsed YAML file.

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
    """Parse a YAML file.

    Raises:
        UserError: if it cannot be read, is not YAML, or repeats a key; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: {getattr(error, 'problem', None) or 'not YAML'}") from None
    lines: dict[Place, int] = {}
    data = None if root is None else _value(root, (), lines, path)
    return Document(path, data, lines)


def _value(node: yaml.Node, place: Place, lines: dict[Place, int], path: Path) -> Any:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in mapping:
                raise UserError(f"{path}, line {key_node.start_mark.line + 1}: {key!r} is given twice")
            mapping[key] = _value(value_node, (*place, key), lines, path)
            lines[(*place, key)] = key_node.start_mark.line + 1
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*place, i), lines, path) for i, item in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)
