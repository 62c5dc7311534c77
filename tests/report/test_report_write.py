from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_sample import encoder, full, minimal

from steelyard.errors import UserError
from steelyard.report import Interval, Metric, ReportData, pareto_png, rebuild, write
from steelyard.report.page import drawings, page
from steelyard.report.scene import Marker, Rect, Scene
from steelyard.report.text import fit_table, metric_table
from steelyard.report.tones import light

matplotlib = pytest.importorskip("matplotlib", reason="PNG figures need matplotlib")


def test_page_and_figures_are_written_and_nothing_else(tmp_path: Path) -> None:
    data = full()
    files = write(tmp_path, data)
    names = ["report.html", *(f"report/{name}.png" for name in ("pareto", "bits", "bytes", "prediction"))]
    assert files == [tmp_path / name for name in names]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(files)
    assert files[0].read_text(encoding="utf-8") == page(data)


def _expected(scene: Scene) -> dict[tuple[float, float], tuple[float, ...]]:
    """Places in a drawing and the colours they have on paper: near corners of rectangles, centres of markers."""

    def colour(tone: str, opacity: float = 1.0) -> tuple[float, ...]:
        return tuple(int(light(tone)[i : i + 2], 16) * opacity + 255 * (1 - opacity) for i in (1, 3, 5))

    places = {}
    for item in scene.items:
        if isinstance(item, Rect) and item.width > 12 and item.height > 8:
            places[item.x + 4, item.y + 4] = colour(item.tone, item.opacity)
        elif isinstance(item, Marker) and not item.hollow and item.shape == "circle":
            places[item.x, item.y] = colour(item.tone)
    return places


def test_figures_show_every_shape_at_its_place(tmp_path: Path) -> None:
    from PIL import Image

    files = write(tmp_path, full())
    for path, scene in zip(files[1:], drawings(full()).values(), strict=True):
        places = _expected(scene)
        assert len(places) >= 8
        with Image.open(path) as image:
            assert image.size == pytest.approx((2 * (scene.width + 32), 2 * (scene.height + 32)), abs=2)
            pixels = image.convert("RGB")
            for (x, y), colour in places.items():
                found = pixels.getpixel((round(2 * (x + 16)), round(2 * (y + 16))))
                assert found == pytest.approx(colour, abs=3), (path.name, x, y)


def test_figures_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    write(tmp_path, full())
    write(tmp_path, encoder())
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["pareto.png"]


def test_writing_again_gives_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in write(tmp_path, full())}
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 30, "lines.scale_dashes": False}):
        second = {path.name: path.read_bytes() for path in write(tmp_path, full())}
        assert matplotlib.rcParams["font.size"] == 30
    assert first == second


def test_a_report_is_rebuilt_from_the_folders_record(tmp_path: Path, data: ReportData) -> None:
    first = {path: path.read_bytes() for path in write(tmp_path, data)}
    record = {"plan": {}, "report": data.to_dict()}
    (tmp_path / "steelyard.json").write_text(json.dumps(record), encoding="utf-8")
    for path in first:
        path.unlink()
    assert {path: path.read_bytes() for path in rebuild(tmp_path)} == first


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        ("{", "cannot be read"),
        ("[]", "holds no 'report'"),
        ('{"report": {}}', "damaged at request"),
    ],
)
def test_a_folder_without_the_data_says_so(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "steelyard.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        rebuild(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: the report cannot be written"):
        write(tmp_path / "nowhere", minimal())


def test_names_that_are_not_unicode_do_not_stop_a_report(tmp_path: Path) -> None:
    broken = ReportData.from_dict({**minimal().to_dict(), "notes": ["a lone surrogate: \ud800"]})
    write(tmp_path, broken)
    assert "a lone surrogate: ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_without_matplotlib_the_page_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert write(tmp_path, full()) == [tmp_path / "report.html"]
    with pytest.raises(UserError, match="install"):
        pareto_png(tmp_path / "curve.png", full().curve)


def test_the_curve_alone(tmp_path: Path) -> None:
    data = full()
    path = tmp_path / "figures" / "curve.png"
    assert pareto_png(path, data.curve, data.damage, parameters=data.sizes.parameters) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    assert pareto_png(tmp_path / "none.png", ()) is None
    assert not (tmp_path / "none.png").exists()


def test_importing_the_floor_stays_light() -> None:
    code = (
        "import sys, steelyard.report, steelyard.report.text;"
        "print(sorted({'torch', 'matplotlib', 'pydantic', 'rich', 'numpy', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def _rendered(renderable: object, width: int = 116) -> str:
    from rich.console import Console

    output = io.StringIO()
    Console(width=width, file=output, no_color=True, force_terminal=False).print(renderable)
    return output.getvalue()


def test_the_terminal_shows_the_same_figures() -> None:
    data = full()
    text = _rendered(fit_table(data))
    assert max(map(len, text.splitlines())) <= 116
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "loss, nats/token 1.234 1.240 [1.191, 1.288] +0.0060 [0.0041, 0.0079] worse" in lines
    assert "accuracy 70.2 % 70.1 % [69.0, 71.2] -0.09 % [-0.24, 0.07] no change seen" in lines
    assert "budget 6,310,022, 14 left; next improvement 2,048" in lines
    assert any(line.startswith("steelyard fit * 6,310,008 4.814 0.00159 [0.00142, 0.00180]") for line in lines)
    assert any(line.startswith("total 20,980,136 6,310,008 30.1 % 100.0 %") for line in lines)
    assert any(line.startswith("load skipped") for line in lines)
    assert "note: The embedding is tied to the head and kept once." in lines


def test_the_terminal_leaves_out_what_is_not_known() -> None:
    text = _rendered(fit_table(encoder()))
    assert "1 - cosine" in text
    assert "predicted" not in text and "paired" not in text and "None" not in text
    assert _rendered(fit_table(minimal())).strip() == "500 bytes written of 1,000"


def test_names_are_not_read_as_markup() -> None:
    table = metric_table([Metric("[bold red]loss[/]", Interval(1.0, 0.9, 1.1))])
    assert "[bold red]loss[/]" in _rendered(table)
