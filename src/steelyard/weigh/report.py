"""A weighing as plain data, as CSV, as a page and as pictures."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from steelyard.errors import UserError
from steelyard.report.image import save_png
from steelyard.report.markup import Html, chart, details, element, join, note, section, table, terms
from steelyard.report.memory_plot import MemoryCurve, memory_plot
from steelyard.report.scene import Scene
from steelyard.report.svg import css_classes, svg
from steelyard.report.tones import css_variables
from steelyard.report.treemap import Area, treemap
from steelyard.units import format_size
from steelyard.weigh.counts import Row, Weighing

WIDE, NARROW = 860.0, 350.0
_BATCHES = (1, 8, 32)
_LONGEST = 131072
_LENGTHS = ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length", "n_ctx")
_PARTS = ("weights", "scales", "zero_points", "overhead")
# Role starts and the colour of their areas; the first that fits.
_TONES = (
    ("embed", "series-1"),
    ("head", "series-3"),
    ("norm", "series-6"),
    ("attn", "accent"),
    ("mlp.expert", "series-4"),
    ("expert", "series-4"),
    ("mlp", "series-2"),
)


def plain_data(weighed: Weighing) -> dict[str, Any]:
    """Return everything as plain data for JSON."""
    spec = weighed.spec
    quantized = weighed.quantized_bits_per_weight
    return {
        "model": weighed.subject.location,
        "model_type": spec.model_type,
        "source": weighed.source,
        "table": spec.architecture is not None,
        "quantization": weighed.subject.quantization or None,
        "parameters": weighed.parameters.unique,
        "weight_bytes": weighed.nbytes.total,
        "files": weighed.subject.files,
        "bits_per_parameter": weighed.bits_per_weight,
        "quantized_bits_per_weight": quantized,
        "counts": asdict(weighed.parameters),
        "bytes": {**asdict(weighed.nbytes), "total": weighed.nbytes.total},
        "roles": [_row(row) for row in weighed.by_role()],
        "layers": [_row(row) for row in weighed.by_layer()],
        "encodings": [_row(row) for row in weighed.by_encoding()],
        "ties": dict(spec.ties),
        "notes": list(weighed.notes),
    }


def csv_lines(weighed: Weighing) -> str:
    """Return one line for each tensor, with a heading."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["tensor", "role", "layer", "shape", "encoding", "parameters", "bytes", *_PARTS, "bits"])
    for name, row in weighed.rows:
        shape = "x".join(map(str, weighed.spec.tensors[name].shape))
        layer = "" if row.layer is None else row.layer
        parts = [*(getattr(row, part) for part in _PARTS), f"{row.bits_per_weight:.4f}"]
        writer.writerow([name, row.role or "", layer, shape, row.encoding, row.parameters, row.nbytes, *parts])
    return text.getvalue()


def scenes(weighed: Weighing, width: float = WIDE) -> dict[str, Scene]:
    """Return the pictures by name: the treemap of bytes and, where a cache is kept, memory against context."""
    found = {"treemap": _treemap(weighed, width), "memory": _memory(weighed, width)}
    return {name: scene for name, scene in found.items() if scene is not None}


def write_png(weighed: Weighing, folder: Path) -> list[Path]:
    """Write the pictures as `treemap.png` and `memory.png` into a folder.

    Raises:
        UserError: if matplotlib is not installed or the folder cannot be written.
    """
    try:
        return [save_png(scene, folder / f"{name}.png") for name, scene in scenes(weighed).items()]
    except OSError as error:
        raise UserError(f"{folder}: the pictures cannot be written: {error.strerror or error}") from None


def write_html(
    weighed: Weighing, file: Path, sections: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()
) -> Path:
    """Write one page that needs nothing else.

    Args:
        weighed: what to show.
        file: where to; an earlier one is replaced.
        sections: further sections: a heading, and names with what they stand for.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged = file.with_name(f".{file.name}.partial")
        staged.write_bytes(page(weighed, sections).encode("utf-8", "replace"))
        os.replace(staged, file)
    except OSError as error:
        raise UserError(f"{file}: the page cannot be written: {error.strerror or error}") from None
    return file


def page(weighed: Weighing, sections: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()) -> str:
    """Return the page as one HTML document."""
    templates = files("steelyard.report") / "templates"
    style = Template((templates / "style.css").read_text(encoding="utf-8")).substitute(
        light=css_variables(dark=False), dark=css_variables(dark=True), classes=css_classes()
    )
    wide, narrow = scenes(weighed, WIDE), scenes(weighed, NARROW)
    name = _name(weighed)
    body = join(
        element("header", element("p", "steelyard weigh", css="mark"), element("h1", name)),
        element("p", headline(weighed), css="summary"),
        section("Bytes by role and layer", chart(wide.get("treemap"), narrow.get("treemap")), _by_role(weighed)),
        section(
            "Memory against context",
            chart(wide.get("memory"), narrow.get("memory")),
            note("Weights as they are stored, with keys and values (or states) in 16 bits.")
            if "memory" in wide
            else Html(""),
        ),
        section("Parameters and bytes", _totals(weighed)),
        *(section(title, terms(pairs)) for title, pairs in sections if pairs),
        section("Notes", element("ul", *(element("li", words) for words in weighed.notes)))
        if weighed.notes
        else Html(""),
        section("Layers", details("every layer", _by_layer(weighed))),
    )
    return Template((templates / "page.html").read_text(encoding="utf-8")).substitute(
        title=element("title", f"{name}: weighed"), style=style, body=body
    )


def fragment(weighed: Weighing) -> str:
    """Return what a notebook shows: the headline, the treemap and the table of roles."""
    scene = scenes(weighed).get("treemap")
    drawing = Html(svg(scene)) if scene else Html("")
    classes = css_classes().replace(".f-", ".steelyard-weigh .f-").replace(".s-", ".steelyard-weigh .s-")
    style = f"<style>.steelyard-weigh{{{css_variables(dark=False)}}}{classes}</style>"
    headed = element("p", element("strong", _name(weighed)), ": ", headline(weighed))
    return f'<div class="steelyard-weigh">{style}{headed}{drawing}{_by_role(weighed)}</div>'


def headline(weighed: Weighing) -> str:
    """Return the sentence that answers what is in the model."""
    parameters, nbytes = weighed.parameters, weighed.nbytes
    active = f" ({parameters.active:,} active)" if parameters.active != parameters.unique else ""
    where = f"in {weighed.subject.files} file(s)" if weighed.subject.files else "by the config alone"
    return (
        f"{parameters.unique:,} parameters{active}, {nbytes.total:,} bytes ({format_size(nbytes.total)}) {where}, "
        f"{weighed.bits_per_weight:.2f} bits per parameter" + (" with headers" if weighed.subject.files else "")
    )


def contexts(weighed: Weighing) -> list[int]:
    """Return powers of two up to the longest context that the config names, 128 Ki tokens if it names none."""
    named = [weighed.spec.config.get(key) for key in _LENGTHS]
    longest = max([length for length in named if isinstance(length, int) and length > 0], default=_LONGEST)
    return [1 << power for power in range(8, 25) if 1 << power <= max(longest, 512)]


def _treemap(weighed: Weighing, width: float) -> Scene | None:
    roles: dict[str | None, list[Row]] = {}
    for row in weighed.by_role_and_layer:
        roles.setdefault(row.role, []).append(row)
    areas = []
    for role, rows in roles.items():
        name = role or "unknown"
        tone = next((tone for start, tone in _TONES if name.startswith(start)), "before")
        parts = tuple(
            Area("", row.nbytes, _pointed(name, row), tone, 0.4 if (row.layer or 0) % 2 else 0.55)
            for row in sorted(rows, key=lambda row: row.layer or 0)
        )
        areas.append(Area(name, sum(row.nbytes for row in rows), name, tone, parts=parts))
    label = "Bytes by role and layer. " + "; ".join(
        f"{row.role or 'unknown'} {row.nbytes:,}" for row in weighed.by_role()
    )
    return treemap(areas, label, width, 420.0 if width > 500 else 380.0)


def _pointed(name: str, row: Row) -> str:
    place = "" if row.layer is None else f", layer {row.layer}"
    return f"{name}{place}\n{row.parameters:,} parameters\n{row.nbytes:,} bytes, {row.encoding}"


def _memory(weighed: Weighing, width: float) -> Scene | None:
    if weighed.spec.architecture is None or not weighed.spec.generates:
        return None
    weights = weighed.nbytes.tensors
    curves = [
        MemoryCurve(
            f"batch {batch}",
            tuple((tokens, weights + weighed.cache_bytes(tokens, batch)) for tokens in contexts(weighed)),
        )
        for batch in _BATCHES
    ]
    return memory_plot(curves, weights, width, 380.0 if width > 500 else 340.0)


def _by_role(weighed: Weighing) -> Html:
    return _table("role", [(row.role or "unknown", row) for row in weighed.by_role()], weighed)


def _by_layer(weighed: Weighing) -> Html:
    named = [("outside" if row.layer is None else str(row.layer), row) for row in weighed.by_layer()]
    return _table("layer", named, weighed)


def _table(heading: str, rows: Sequence[tuple[str, Row]], weighed: Weighing) -> Html:
    total = max(1, sum(row.nbytes for _, row in rows))
    cells = [
        [
            name,
            f"{row.tensors:,}",
            f"{row.parameters:,}",
            f"{row.nbytes:,}",
            *(f"{value:,}" if (value := getattr(row, part)) else "" for part in _PARTS[1:]),
            f"{100 * row.nbytes / total:.1f} %",
            row.encoding,
            f"{row.bits_per_weight:.2f}" if row.parameters else "",
        ]
        for name, row in rows
    ]
    headings = [
        heading,
        "tensors",
        "parameters",
        "bytes",
        "scales",
        "zero points",
        "overhead",
        "share",
        "stored as",
    ]
    return table([*headings, "bits"], cells, words=(0, 8))


def _totals(weighed: Weighing) -> Html:
    counts = [(name.replace("_", " "), f"{value:,}") for name, value in asdict(weighed.parameters).items() if value]
    sizes = [
        (f"bytes of {name.replace('_', ' ')}", f"{value:,}")
        for name, value in asdict(weighed.nbytes).items()
        if value
    ]
    return terms(
        [(f"{name} parameters" if name != "buffers" else "buffers", value) for name, value in counts] + sizes
    )


def _row(row: Row) -> dict[str, Any]:
    data = asdict(row)
    return {**data, "bytes": row.nbytes, "bits_per_weight": row.bits_per_weight}


def _name(weighed: Weighing) -> str:
    location = weighed.subject.location.rstrip("/")
    return location.rpartition("/")[2] or weighed.spec.model_type or "a model"
