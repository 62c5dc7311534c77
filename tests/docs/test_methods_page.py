"""The generated page says what is registered today."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_page_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "generate_methods.py"))["page"]()
    assert (DOCS / "methods.md").read_text(encoding="utf-8") == made, "run: python docs/generate_methods.py"
