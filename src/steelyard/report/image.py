"""Scenes as PNG, drawn by matplotlib: the same shapes at the same places as in the page, in the light palette."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.report.scene import Line, Marker, Rect, Scene, Text, outline, strokes
from steelyard.report.tones import light

_PIXELS_PER_INCH = 96
_POINTS = 72 / _PIXELS_PER_INCH
_MARGIN = 16.0
_SCALE = 2
"""Pixels of the image for one of the scene, for sharp print and dense screens."""


def can_draw() -> bool:
    """Whether matplotlib, the optional dependency, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save_png(scene: Scene, path: Path) -> Path:
    """Write the drawing to `path`; the same scene gives the same bytes.

    Raises:
        UserError: if matplotlib is not installed.
    """
    if not can_draw():
        raise UserError("PNG figures need matplotlib; install it with: pip install 'steelyard[report]'")
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change the figures
        return _save(scene, path)


def _save(scene: Scene, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = scene.width + 2 * _MARGIN, scene.height + 2 * _MARGIN
    size = (width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH)
    drawing = Figure(figsize=size, dpi=_PIXELS_PER_INCH * _SCALE, facecolor=light("surface"))
    FigureCanvasAgg(drawing)
    axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(-_MARGIN, scene.width + _MARGIN)
    axes.set_ylim(scene.height + _MARGIN, -_MARGIN)
    axes.axis("off")
    for order, item in enumerate(scene.items):
        match item:
            case Rect():
                _rect(axes, item, order)
            case Line():
                _line(axes, item, order)
            case Marker():
                _marker(axes, item, order)
            case Text():
                _text(axes, item, order)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.partial")
    drawing.savefig(staged, format="png", metadata={"Software": None})
    os.replace(staged, path)
    return path


def _rect(axes: Any, item: Rect, order: int) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    style: dict[str, Any] = {
        "facecolor": light(item.tone),
        "edgecolor": "none",
        "alpha": item.opacity,
        "zorder": order,
    }
    width, height = max(0.0, item.width), max(0.0, item.height)
    radius = min(item.radius, width / 2, height / 2)
    if radius > 0:
        box = f"round,pad=0,rounding_size={radius}"
        axes.add_patch(FancyBboxPatch((item.x, item.y), width, height, boxstyle=box, **style))
    else:
        axes.add_patch(Rectangle((item.x, item.y), width, height, **style))


def _line(axes: Any, item: Line, order: int) -> None:
    width = item.width * _POINTS
    xs, ys = zip(*item.points, strict=True)
    style: Any = (0, [part * _POINTS / width for part in item.dash]) if item.dash else "solid"
    axes.plot(
        xs,
        ys,
        color=light(item.tone),
        linewidth=width,
        linestyle=style,
        alpha=item.opacity,
        zorder=order,
        solid_joinstyle="round",
        solid_capstyle="butt",
        dash_capstyle="butt",
    )


def _marker(axes: Any, item: Marker, order: int) -> None:
    from matplotlib.patches import Circle, Polygon

    face = light("surface") if item.hollow else light(item.tone)
    style: dict[str, Any] = {
        "facecolor": face,
        "edgecolor": light(item.tone),
        "linewidth": 1.6 * _POINTS,
        "zorder": order,
    }
    corners = outline(item)
    if corners:
        axes.add_patch(Polygon(corners, closed=True, joinstyle="round", **style))
    elif item.shape == "circle":
        axes.add_patch(Circle((item.x, item.y), item.size / 2, **style))
    for stroke in strokes(item):
        _line(axes, Line(stroke, item.tone, 1.8), order)


def _text(axes: Any, item: Text, order: int) -> None:
    axes.text(
        item.x,
        item.y,
        item.text,
        parse_math=False,
        fontsize=item.size * _POINTS,
        fontfamily="DejaVu Sans",
        fontweight="bold" if item.bold else "normal",
        color=light(item.tone),
        ha={"start": "left", "middle": "center", "end": "right"}[item.anchor],
        va="baseline",
        rotation=90 if item.turned else 0,
        rotation_mode="anchor",
        zorder=order,
    )
