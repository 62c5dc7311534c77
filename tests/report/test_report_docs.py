from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the example draws a PNG")
_DOCS = Path(__file__).parents[2] / "docs" / "report.md"


def test_the_example_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(r"```python\n(.*?)```", _DOCS.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(_DOCS), "exec"), {})
    assert "2.00 MiB asked, 2,097,000 bytes written (152 bytes under)" in (
        tmp_path / "fitted/report.html"
    ).read_text(encoding="utf-8")
    assert (tmp_path / "fitted/curve.png").read_bytes().startswith(b"\x89PNG")
