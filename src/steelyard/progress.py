"""How long work reports how far it is; only the command line draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the advance of one task at a time."""

    def start(self, label: str, total: float, unit: str = "") -> None:
        """Begin a task of `total` units."""

    def advance(self, amount: float) -> None:
        """Report that `amount` more units are done."""

    def finish(self) -> None:
        """End the current task."""


class _Silent:
    def start(self, label: str, total: float, unit: str = "") -> None:
        pass

    def advance(self, amount: float) -> None:
        pass

    def finish(self) -> None:
        pass


SILENT: Progress = _Silent()
