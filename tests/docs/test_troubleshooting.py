"""The messages that the page explains are those that the code gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
ANY = "…"


def _plain(text: str) -> str:
    """Source text with joined string literals and every formatted value as an ellipsis."""
    joined = re.sub(r'"\s*f?"', "", text)
    return re.sub(r"\[…\]|'…'", ANY, re.sub(r"\{[^{}]*\}", ANY, joined))


SOURCES = "\n".join(_plain(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py"))
FIRST_COLUMN = re.findall(r"^\| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
MESSAGES = [message for cell in FIRST_COLUMN for message in re.findall(r"`([^`]+)`", cell) if " " in message]


@pytest.mark.parametrize("message", MESSAGES)
def test_message_exists(message: str) -> None:
    pieces = re.sub(r"\[…\]|'…'", ANY, message).split(ANY)
    for piece in (piece.strip(" ,.") for piece in pieces):
        assert piece.removeprefix("note: ") in SOURCES, piece


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 25  # the table is still read as one
