"""The few HTML elements a report is made of. What is not `Html` already is escaped on its way in."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from steelyard.report.scene import Scene
from steelyard.report.svg import svg


class Html(str):
    """Finished markup. Only this package's own functions make it; any other string is text."""

    __slots__ = ()


NOTHING = Html("")


def element(tag: str, *content: str, css: str = "") -> Html:
    """Return an element around its content."""
    attribute = f' class="{escape(css)}"' if css else ""
    return Html(f"<{tag}{attribute}>{''.join(map(_safe, content))}</{tag}>")


def join(*parts: Html) -> Html:
    """Return the parts one after the other."""
    return Html("\n".join(part for part in parts if part))


def section(title: str, *content: Html) -> Html:
    """Return a section under a heading; nothing if it would be empty."""
    if not any(content):
        return NOTHING
    return element("section", element("h2", title), *content)


def note(words: str) -> Html:
    """Return a paragraph of explanation."""
    return element("p", words, css="note")


def details(title: str, *content: Html) -> Html:
    """Return content behind a line that unfolds it."""
    return element("details", element("summary", title), *content)


def tag(words: str) -> Html:
    """Return a small coloured word: pass, fail, worse."""
    css = {"pass": "good", "better": "good", "fail": "bad"}.get(words, "plain")
    return element("span", words, css=f"tag {css}") if words else NOTHING


def chart(wide: Scene | None, narrow: Scene | None) -> Html:
    """Return a drawing laid out twice, of which the page shows the one that fits its width."""
    if wide is None or narrow is None:
        return NOTHING
    return Html(f"<figure>{svg(wide, 'wide')}{svg(narrow, 'narrow')}</figure>")


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    words: Sequence[int] = (0,),
    strong: Sequence[int] = (),
) -> Html:
    """Return a table, without the columns that would be empty.

    Args:
        headings: one per column.
        rows: cells of text, or of finished markup.
        words: columns that hold words; the others hold numbers and are set flush right.
        strong: rows to stress.
    """
    used = [column for column in range(len(headings)) if any(row[column] for row in rows)]
    head = "".join(f'<th scope="col"{_side(i, words)}>{_safe(headings[i])}</th>' for i in used)
    body = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td{_side(i, words, row[i])}>{_safe(row[i])}</td>" for i in used)
        stress = ' class="strong"' if index in strong else ""
        body.append(f"<tr{stress}>{cells}</tr>")
    content = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return Html(f'<div class="scroll"><table>{content}</table></div>')


def terms(pairs: Sequence[tuple[str, str]]) -> Html:
    """Return a list of names and what they stand for, without those that are empty."""
    rows = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(value)}</dd>" for name, value in pairs if value)
    return Html(f"<dl>{rows}</dl>") if rows else NOTHING


def _safe(value: str) -> str:
    return value if isinstance(value, Html) else escape(value)


def _side(column: int, words: Sequence[int], cell: str = "") -> str:
    if column not in words:
        return ' class="number"'
    return ' class="prose"' if column > 0 and len(cell) > 20 and not isinstance(cell, Html) else ""
