from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

from report_sample import encoder, full, minimal

from steelyard.report import Certificate, ReportData, TensorRow, summary
from steelyard.report.page import page

_NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
_VOID = {"meta", "link", "br"}


class _Tags(HTMLParser):
    """Every start tag with the names of its attributes; elements must nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _hostile(value: Any, key: str = "") -> Any:
    """The same data with markup in every free text."""
    kept = {"status", "better", "role", "unit"}
    if isinstance(value, Mapping):
        return {name: _hostile(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_hostile(item, key) for item in value]
    if isinstance(value, str) and value and key not in kept:
        return f"""{value}<script>alert('1')</script><img src="x" onerror="alert(2)">&amp;"'`$x ${{y}}"""
    return value


def test_the_page_asks_for_nothing(data: ReportData) -> None:
    text = page(data)
    assert not re.findall(r"(?:https?:)?//[\w.]", text.replace(_NAMESPACE, ""))
    tags = _Tags(text).tags
    names = {tag for tag, _ in tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "audio", "video", "source", "use", "image"}
    assert not {name for _, names_ in tags for name in names_} & {"src", "srcset", "style", "xlink:href"}
    assert re.findall(r'href="([^"]*)"', text) == ["data:,"]  # an empty icon, or the browser would ask for one
    assert "url(" not in text and "@import" not in text and "@font-face" not in text
    assert "default-src 'none'" in text


def test_names_are_text_and_never_markup() -> None:
    harmless = full(2)
    hostile = ReportData.from_dict(_hostile(harmless.to_dict()))
    found, expected = _Tags(page(hostile)), _Tags(page(harmless))
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in expected.tags}
    assert not [names for _, names in found.tags if any(name.startswith("on") for name in names)]
    assert any("<script>alert('1')</script>" in word for word in found.words)


def test_drawings_are_well_formed(data: ReportData) -> None:
    text = page(ReportData.from_dict(_hostile(data.to_dict())))
    drawn = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert (len(drawn) > 0) == bool(data.curve)
    for drawing in drawn:
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img" and root.get("aria-label")


def test_every_figure_and_section_is_there() -> None:
    data = full()
    text = page(data)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Before and after",
        "What other budgets would give",
        "Bits by layer and role",
        "Where the bytes went",
        "Predicted and measured damage",
        "What the format costs",
        "Checked before the folder took its name",
        "Notes",
        "How it was made",
        "Every tensor",
    ]
    assert text.count('class="wide"') == text.count('class="narrow"') == 4
    words = _Tags(text).words
    assert summary(data) in words
    for expected in (
        f"{data.sizes.written:,}",
        "6,310,022 bytes",
        "2,048 bytes, more than was left",
        "int4 g64 sym",
    ):
        assert expected in words
    assert all(row.name in words for row in data.tensors)


def test_what_was_not_measured_is_left_out() -> None:
    text = page(minimal())
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["How it was made"]
    assert "<figure>" not in text and "None" not in text and "nan" not in text
    assert "change, paired" not in page(encoder())


def test_the_same_data_give_the_same_page(data: ReportData) -> None:
    assert page(data) == page(ReportData.from_dict(data.to_dict()))


def test_a_failed_certificate_is_on_the_first_screen() -> None:
    failed = dataclasses.replace(full(), certificates=(Certificate("size", "fail", "3 bytes more than planned"),))
    top = page(failed).split("</header>")[0]
    assert "Not passed: size" in top
    assert "Not passed" not in page(full())


def test_a_great_many_tensors_are_cut_to_the_worst() -> None:
    tensors = tuple(
        TensorRow(f"tensor.{index}.weight", None, None, "int4", 4.0, 10, damage=float(index))
        for index in range(2500)
    )
    text = page(dataclasses.replace(minimal(), tensors=tensors))
    assert "1,500 more" in text
    assert "<code>tensor.2499.weight</code>" in text and "<code>tensor.1499.weight</code>" not in text


def test_the_summary_reads_as_one_sentence() -> None:
    assert summary(full()) == (
        "6.02 MiB asked, 6,310,008 bytes written (14 bytes under) · KL 0.00159 [0.00142, 0.00180] nats/token · "
        "loss 1.234 → 1.240 · loads in plain transformers"
    )
    assert summary(minimal()) == "500 bytes written of 1,000"
    over = dataclasses.replace(minimal(), sizes=dataclasses.replace(minimal().sizes, budget=499))
    assert "499 B asked, 500 bytes written (1 byte over)" in summary(over)
