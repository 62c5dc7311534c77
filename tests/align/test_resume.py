"""An interrupted run goes on to the same bytes, and nothing is left under the final name before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard.edits.align.fuse import fuse_folder
from steelyard.edits.align.job import align_folder
from steelyard.edits.align.options import FuseOptions
from steelyard.weights import FolderWriter

from .networks import family


@pytest.mark.parametrize("verb", ["align", "fuse"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    first, second = (family(tmp_path / str(seed), "gpt2", seed) for seed in (1, 2))

    def run(out: str, resume: bool = False) -> None:
        if verb == "align":
            align_folder(second, first, tmp_path / out, resume=resume)
        else:
            options = FuseOptions(method="pleas", width=1.5, fit=False)
            fuse_folder(first, second, tmp_path / out, options, resume=resume)

    run("whole")
    written: list[str] = []
    whole: Callable[..., Any] = FolderWriter.write

    def failing(self: FolderWriter, name: str, array: Any) -> None:
        if len(written) == 9:
            raise KeyboardInterrupt
        written.append(name)
        whole(self, name, array)

    monkeypatch.setattr(FolderWriter, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    assert not (tmp_path / "parts").exists()
    again: list[str] = []
    monkeypatch.setattr(
        FolderWriter, "write", lambda self, name, array: (again.append(name), whole(self, name, array))
    )
    run("parts", resume=True)
    assert again and not set(again) & set(written)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / file.name).read_bytes() == file.read_bytes()
