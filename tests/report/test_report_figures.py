from __future__ import annotations

import dataclasses
import math

import pytest
from report_sample import full, minimal

from steelyard.report import CurvePoint, Damage, Interval, Prediction, Series, TensorRow
from steelyard.report.heatmap import heat_map
from steelyard.report.ledger import byte_bars
from steelyard.report.page import NARROW, WIDE, drawings
from steelyard.report.pareto import pareto
from steelyard.report.prediction import prediction_scatter
from steelyard.report.scene import Line, Marker, Rect, Scene, Text, text_width
from steelyard.report.tones import TONES


def _drawn(scene: Scene | None) -> Scene:
    """Return a drawing that has something in it."""
    if scene is None or not scene.items:
        pytest.fail("nothing was drawn")
    return scene


def _texts(scene: Scene) -> list[str]:
    return [item.text for item in scene.items if isinstance(item, Text)]


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("layers", [1, 8, 40])
def test_everything_lies_within_the_drawing(width: float, layers: int) -> None:
    scenes = drawings(full(layers), width)
    assert set(scenes) == {"pareto", "bits", "bytes", "prediction"}
    for scene in scenes.values():
        assert scene.width <= width
        for item in scene.items:
            match item:
                case Rect():
                    corners = [(item.x, item.y), (item.x + item.width, item.y + item.height)]
                case Line():
                    corners = list(item.points)
                case Marker():
                    corners = [(item.x, item.y)]
                case Text() if item.turned:
                    half = text_width(item.text, item.size) / 2
                    corners = [(item.x, item.y - half), (item.x, item.y + half)]
                case Text():
                    length = text_width(item.text, item.size)
                    start = item.x - {"start": 0.0, "middle": length / 2, "end": length}[item.anchor]
                    corners = [(start, item.y - item.size), (start + length, item.y)]
            for x, y in corners:
                assert -0.5 <= x <= scene.width + 0.5, item
                assert -0.5 <= y <= scene.height + 0.5, item


def test_nothing_is_drawn_without_data() -> None:
    assert drawings(minimal()) == {}
    assert pareto([]) is None
    assert pareto([Series("one", (CurvePoint(100, Interval(0.1)),))]) is None
    zero = tuple(CurvePoint(size, Interval(value)) for size, value in ((1, 0.0), (2, -1e-9), (3, math.nan)))
    assert pareto([Series("lossless", zero)]) is None
    assert prediction_scatter([Prediction("a", 0.1, Interval(0.1)), Prediction("b", 0.0, Interval(0.1))]) is None
    assert heat_map([TensorRow("norm", 0, "norm.attn", "bf16", 16.0, 64)]) is None


def test_pareto_places_points_by_bytes_and_by_the_logarithm_of_damage() -> None:
    points = tuple(CurvePoint(size << 20, Interval(value)) for size, value in ((2, 0.1), (4, 0.01), (8, 0.0001)))
    scene = _drawn(pareto([Series("ours", points)], parameters=8 << 20, budget=4 << 20))
    first, second, third = [item for item in scene.items if isinstance(item, Marker) and item.title]
    assert (third.x - second.x) / (second.x - first.x) == pytest.approx(2)  # 4 MiB and 2 MiB
    assert (third.y - second.y) / (second.y - first.y) == pytest.approx(2)  # two decades and one
    assert first.title.splitlines()[:3] == ["ours", "2,097,152 bytes", "2.000 bits per stored parameter"]
    upright = [item for item in scene.items if isinstance(item, Line) and item.dash and item.width == 1.2]
    assert [line.points[0][0] for line in upright] == pytest.approx([second.x])  # the budget of 4 MiB


def test_pareto_keeps_an_interval_that_touches_zero_on_paper() -> None:
    points = tuple(CurvePoint(size, Interval(0.1 / size, -0.01, 0.2)) for size in (1, 2, 3))
    scene = _drawn(pareto([Series("ours", points)], Damage()))
    assert all(0 <= y <= scene.height for item in scene.items if isinstance(item, Line) for _, y in item.points)


def test_every_baseline_has_a_marker_of_its_own() -> None:
    points = tuple(CurvePoint(size, Interval(0.1 / size)) for size in (1, 2))
    scene = _drawn(pareto([Series(f"series {index}", points) for index in range(7)]))
    styles = {(item.shape, item.tone) for item in scene.items if isinstance(item, Marker)}
    assert len({shape for shape, _ in styles}) == 7 and len({tone for _, tone in styles}) == 7


def test_heat_map_has_a_cell_for_every_matrix_and_shades_by_bits() -> None:
    data = full(5)
    scene = _drawn(heat_map(data.tensors, data.damage))
    cells = {item.title.splitlines()[0]: item for item in scene.items if isinstance(item, Rect) and item.title}
    matrices = {row.name: row for row in data.tensors if row.role != "norm.final"}
    assert set(matrices) <= set(cells)
    ordered = sorted(matrices.values(), key=lambda row: row.bits)
    shades = [cells[row.name].opacity for row in ordered]
    assert shades == sorted(shades) and shades[0] < shades[-1]
    for name, row in matrices.items():
        assert f"{row.bits:.3f} bits per weight, {row.nbytes:,} bytes" in cells[name].title


def test_heat_map_averages_experts_by_their_weights() -> None:
    rows = [TensorRow(f"experts.{index}.up", 0, "mlp.up", f"int{bits}", bits, nbytes)
            for index, (bits, nbytes) in enumerate(((2.0, 100), (4.0, 600)))]  # fmt: skip
    scene = _drawn(heat_map(rows))
    [cell] = [item for item in scene.items if isinstance(item, Rect) and item.title]
    # 400 weights of 2 bits and 1200 of 4 bits.
    assert "3.500 bits per weight, 700 bytes" in cell.title
    assert "mixed" in _texts(scene)


def test_heat_map_without_layers_or_roles() -> None:
    scene = _drawn(heat_map([TensorRow("thing.weight", None, None, "int4 g64", 4.25, 1000)]))
    [cell] = [item for item in scene.items if isinstance(item, Rect) and item.title]
    assert cell.title.splitlines()[0] == "thing.weight" and "4.250 bits per weight, 1,000 bytes" in cell.title
    assert {"other", "4.25"} <= set(_texts(scene))


def test_bars_are_as_long_as_their_bytes() -> None:
    sizes = full().sizes
    scene = _drawn(byte_bars(sizes))
    bars = [item for item in scene.items if isinstance(item, Rect)]
    lengths = [bar.width for bar in bars]
    values = [value for row in sizes.roles for value in (row.original, row.new)]
    scale = max(lengths) / max(values)
    assert lengths == pytest.approx([max(1.0, value * scale) for value in values])
    assert byte_bars(dataclasses.replace(sizes, roles=())) is None


def test_exact_predictions_lie_on_the_line() -> None:
    pairs = [Prediction(str(value), value, Interval(value)) for value in (1e-4, 1e-2, 1.0)]
    scene = _drawn(prediction_scatter([*pairs, Prediction("worse", 0.01, Interval(0.1))]))
    [line] = [item.points for item in scene.items if isinstance(item, Line) and item.dash]
    (x0, y0), (x1, y1) = line
    marks = [item for item in scene.items if isinstance(item, Marker)]
    above = [y0 + (mark.x - x0) * (y1 - y0) / (x1 - x0) - mark.y for mark in marks]
    assert above[:3] == pytest.approx([0, 0, 0], abs=1e-6)
    assert above[3] > 5  # it was damaged more than predicted


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(first: str, second: str) -> float:
    bright, dim = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read_on_every_ground(dark: bool) -> None:
    """Contrast as WCAG 2 defines it: 4.5 for text, 3 for strokes."""
    surface, panel = TONES["surface"][dark], TONES["panel"][dark]
    for tone in ("ink", "muted", "accent", "good", "bad"):
        assert _contrast(TONES[tone][dark], surface) >= 4.5, tone
        assert _contrast(TONES[tone][dark], panel) >= 4.5, tone
    for tone in TONES:
        if tone.startswith("series-"):
            assert _contrast(TONES[tone][dark], surface) >= 3, tone


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("bits", [1, 2, 2.5, 3, 4, 5, 6, 6.4, 6.7, 7, 8, 8.5, 11, 11.3, 12, 16, 32])
def test_cells_can_be_read(bits: float, dark: bool) -> None:
    scene = _drawn(heat_map([TensorRow("w", 0, "attn.q", "x", bits, 100)]))
    [cell] = [item for item in scene.items if isinstance(item, Rect) and item.title]
    [ink] = {item.tone for item in scene.items if isinstance(item, Text) and item.text == f"{bits:.2f}"}
    accent, surface = TONES["accent"][dark], TONES["surface"][dark]
    mixed = "#" + "".join(
        f"{round(int(accent[i : i + 2], 16) * cell.opacity + int(surface[i : i + 2], 16) * (1 - cell.opacity)):02x}"
        for i in (1, 3, 5)
    )
    assert _contrast(TONES[ink][dark], mixed) >= 4.5


def test_a_report_of_one_series_needs_no_second() -> None:
    data = dataclasses.replace(full(), curve=full().curve[:1])
    [points] = [series.points for series in data.curve]
    titled = [item for item in drawings(data)["pareto"].items if isinstance(item, Marker) and item.title]
    assert len(titled) == len(points)
    assert {item.title.splitlines()[0].removesuffix(" (this result)") for item in titled} == {data.curve[0].name}
