"""Scenes as inline SVG. Colours are classes, so that the page's light and dark palettes apply."""

from __future__ import annotations

from html import escape

from steelyard.report.scene import Line, Marker, Rect, Scene, Text, outline, strokes
from steelyard.report.tones import TONES


def svg(scene: Scene, css_class: str = "") -> str:
    """Return the drawing as an `<svg>` element that scales with its container up to its own width."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{escape(css_class)}" role="img" '
        f'viewBox="0 0 {_n(scene.width)} {_n(scene.height)}" '
        f'width="{_n(scene.width)}" height="{_n(scene.height)}" aria-label="{escape(scene.label)}">'
    ]
    for item in scene.items:
        match item:
            case Rect():
                parts.append(_rect(item))
            case Line():
                parts.append(_line(item))
            case Marker():
                parts.append(_marker(item))
            case Text():
                parts.append(_text(item))
    parts.append("</svg>")
    return "".join(parts)


def css_classes() -> str:
    """Return the rules that give `f-TONE` its fill and `s-TONE` its stroke."""
    return "".join(f".f-{tone}{{fill:var(--{tone})}}.s-{tone}{{stroke:var(--{tone})}}" for tone in TONES)


def _rect(item: Rect) -> str:
    opacity = f' fill-opacity="{_n(item.opacity)}"' if item.opacity < 1 else ""
    radius = f' rx="{_n(item.radius)}"' if item.radius else ""
    return (
        f'<rect class="f-{item.tone}" x="{_n(item.x)}" y="{_n(item.y)}" width="{_n(max(0.0, item.width))}" '
        f'height="{_n(max(0.0, item.height))}"{radius}{opacity}>{_title(item.title)}</rect>'
    )


def _line(item: Line) -> str:
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in item.points)
    dash = f' stroke-dasharray="{" ".join(_n(part) for part in item.dash)}"' if item.dash else ""
    opacity = f' stroke-opacity="{_n(item.opacity)}"' if item.opacity < 1 else ""
    return (
        f'<polyline class="s-{item.tone}" fill="none" stroke-width="{_n(item.width)}" '
        f'stroke-linejoin="round"{dash}{opacity} points="{points}"/>'
    )


def _marker(item: Marker) -> str:
    paint = f'class="f-surface s-{item.tone}"' if item.hollow else f'class="f-{item.tone} s-{item.tone}"'
    corners = outline(item)
    if corners:
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in corners)
        shape = f'<polygon {paint} stroke-width="1.6" stroke-linejoin="round" points="{points}"/>'
    elif item.shape == "circle":
        shape = f'<circle {paint} stroke-width="1.6" cx="{_n(item.x)}" cy="{_n(item.y)}" r="{_n(item.size / 2)}"/>'
    else:
        path = "".join(f"M{_n(a)} {_n(b)}L{_n(c)} {_n(d)}" for (a, b), (c, d) in strokes(item))
        shape = f'<path class="s-{item.tone}" fill="none" stroke-width="1.8" d="{path}"/>'
    if not item.title:
        return shape
    # An invisible disc around a small symbol makes it easy to point at.
    target = f'<circle cx="{_n(item.x)}" cy="{_n(item.y)}" r="{_n(max(11.0, item.size))}" fill-opacity="0"/>'
    return f"<g>{_title(item.title)}{shape}{target}</g>"


def _text(item: Text) -> str:
    anchor = "" if item.anchor == "start" else f' text-anchor="{item.anchor}"'
    bold = ' font-weight="600"' if item.bold else ""
    turn = f' transform="rotate(-90 {_n(item.x)} {_n(item.y)})"' if item.turned else ""
    return (
        f'<text class="f-{item.tone}" x="{_n(item.x)}" y="{_n(item.y)}" font-size="{_n(item.size)}"'
        f"{anchor}{bold}{turn}>{escape(item.text)}</text>"
    )


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _n(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
