"""The page in a real browser: nothing on the console, nothing off the edge, dark where dark is asked for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_sample import full, minimal

from steelyard.report import ReportData, write
from steelyard.report.tones import TONES

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed"
)

# What the page's own content wrote to the console; other lines of the log are about the browser.
_CONSOLE = re.compile(r".*\bCONSOLE\b.*")
# A page around the report in a frame of a chosen width, for the browser's own windows stop at 500 pixels.
_FRAME = """<!doctype html><body style="margin:0">
<iframe src="{page}" style="border:0;width:{width}px;height:3000px"
onload="let d = this.contentDocument; document.title = d.documentElement.scrollWidth + ' '
+ d.querySelectorAll('svg.narrow').length + ' '
+ [...d.querySelectorAll('svg.narrow')].filter(e => e.getBoundingClientRect().width > 0).length + ' '
+ [...d.querySelectorAll('svg.wide')].filter(e => e.getBoundingClientRect().width > 0).length"></iframe>"""


def _browse(tmp_path: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert not _CONSOLE.findall(done.stderr)
    return done


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_is_drawn_without_a_word_on_the_console(tmp_path: Path, data: ReportData, dark: bool) -> None:
    from PIL import Image

    page = write(tmp_path, data)[0]
    shot = tmp_path / "shot.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _browse(tmp_path, page, f"--screenshot={shot}", "--window-size=1280,3200", *scheme)
    with Image.open(shot) as image:
        assert image.size == (1280, 3200)
        counted = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24) or ()}
    colours = {name: tuple(int(pair[dark][i : i + 2], 16) for i in (1, 3, 5)) for name, pair in TONES.items()}
    assert counted[colours["surface"]] > 1280 * 3200 / 2
    assert counted[colours["panel"]] > 1000
    if data.curve:
        assert counted[colours["accent"]] > 500
    if data.sizes.roles:
        assert counted[colours["before"]] > 1000


def test_the_console_is_really_heard(tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text("<script>console.error('heard')</script>", encoding="utf-8")
    with pytest.raises(AssertionError):
        _browse(tmp_path, page, "--dump-dom")


@pytest.mark.parametrize(("width", "narrow"), [(360, True), (400, True), (700, False), (1280, False)])
def test_nothing_runs_off_the_edge(tmp_path: Path, width: int, narrow: bool) -> None:
    write(tmp_path, full(12))
    frame = tmp_path / "frame.html"
    frame.write_text(_FRAME.format(page="report.html", width=width), encoding="utf-8")
    done = _browse(tmp_path, frame, "--allow-file-access-from-files", "--dump-dom")
    [counted] = re.findall(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", done.stdout)
    room, drawn, narrow_shown, wide_shown = map(int, counted)
    assert room <= width
    assert (narrow_shown, wide_shown) == ((drawn, 0) if narrow else (0, drawn))


def test_the_least_report_is_readable_too(tmp_path: Path) -> None:
    page = write(tmp_path, minimal())[0]
    assert "500 bytes written of 1,000" in _browse(tmp_path, page, "--dump-dom").stdout
