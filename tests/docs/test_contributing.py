"""The examples of CONTRIBUTING.md are the code they show."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_examples_are_in_the_files_they_name() -> None:
    examples = re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 7
    for name, example in examples:
        assert example.rstrip("\n") in (ROOT / name).read_text(encoding="utf-8"), f"{name} has changed"


def test_paths_exist() -> None:
    named = re.findall(r"`((?:src|tests|docs|formats|budget|edits|codecs|spec)/[\w/]+\.py)`", TEXT)
    assert len(named) >= 10
    for name in named:
        assert (ROOT / name).is_file() or (ROOT / "src/steelyard" / name).is_file(), name
    for link in re.findall(r"\]\(([\w/.-]+)\)", TEXT):
        assert (ROOT / link).is_file(), link


def test_sections_that_messages_point_to() -> None:
    for kind in ("a method", "an architecture", "a codec", "a format"):
        assert f"\n## Add {kind}\n" in TEXT
