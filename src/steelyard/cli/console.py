"""What the verbs draw: progress with the time left on a terminal, tables, and plain JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from steelyard.progress import SILENT, Progress


class _RichProgress:
    """Draws one task at a time on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: Any = None

    def start(self, label: str, total: float, unit: str = "") -> None:
        self.finish()
        self._task = self._bars.add_task(label, total=total)
        self._bars.start()

    def advance(self, amount: float) -> None:
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def finish(self) -> None:
        if self._task is not None:
            self._bars.stop()
            self._bars.remove_task(self._task)
            self._task = None


def progress() -> Progress:
    """Return progress for people on a terminal, silence elsewhere."""
    return _RichProgress() if sys.stderr.isatty() else SILENT


def show(renderable: Any) -> None:
    """Print a rich table or text; plain and 116 wide where the output is not a terminal."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=116, no_color=True)
    console.print(renderable)


def show_json(data: Any) -> None:
    """Print plain data as JSON."""
    print(json.dumps(data, indent=2, ensure_ascii=False))
