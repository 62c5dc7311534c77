"""Every command and every example of the docs and the README, run as it stands there, page by page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from command_line import Steelyard

pytest.importorskip("torch", reason="the pages calibrate and measure")

ROOT = Path(__file__).parents[2]
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]

# Nobody runs these for us: they set up a machine, take hours, or stand for the reader's own names.
NOT_RUN = {
    "git clone https://github.com/steelyard/steelyard && cd steelyard",
    "make demo",
    "make test",
    'pip install ".[torch,report]"',
    "steelyard fit MODEL --size 4MiB --out DIR",
    "steelyard fit MODEL --size 4MiB --out small",
    "steelyard train-reference run/ --export model/",
    "steelyard train-reference run/ --hidden 128 --ffn 384 --layers 3 --heads 4 --kv-heads 2 --vocabulary 1024 "
    "--export model/",
    "steelyard train-reference run/ --architecture mamba --hidden 256 --layers 6 --export model/",
    "steelyard train-reference run/ --linears ternary --falling trilm --export model/ --export-packed packed/",
    "steelyard train-reference run/ --linears float8 --export model/ --export-packed packed/",
}
_NEVER = ("make ", "git clone ", "pip install ", "cd ")
_SHELL = ("steelyard ", *_NEVER)
# What only a shell understands; a command without it is one of ours, and runs within the test's own process.
_SYNTAX = re.compile(r"^(?!steelyard )|[|&;<>$`*]")
_COMMENT = re.compile(r"(^|\s+)# .*")
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the rest of its info line, and its text."""

    language: str
    info: str
    text: str

    def commands(self) -> list[str]:
        """The commands in it, comments and prompts left out, continued lines joined."""
        lines = (_COMMENT.sub("", line) for line in self.text.replace("\\\n", " ").splitlines())
        return [" ".join(line.removeprefix("$ ").split()) for line in lines if line.strip()]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        language, _, info = match["info"].strip().partition(" ")
        found.append(Block(language, info, match["body"]))
    return found


def runs(block: Block, command: str) -> bool:
    """Tell whether a command is run here."""
    return block.language == "sh" and "norun" not in block.info.split() and not command.startswith(_NEVER)


def test_commands_that_are_not_run_are_known() -> None:
    left = {
        command
        for page in PAGES
        for block in blocks(page)
        for command in block.commands()
        if block.language in ("", "sh", "bash", "console", "shell")
        and (block.language == "sh" or command.startswith(_SHELL))
        and not runs(block, command)
    }
    # What a page shows in another kind of fence may be run elsewhere.
    run = {c for page in PAGES for block in blocks(page) for c in block.commands() if runs(block, c)}
    assert left - run <= NOT_RUN


def test_there_are_commands() -> None:
    run = [c for page in PAGES for block in blocks(page) for c in block.commands() if runs(block, c)]
    verbs = {command.split()[1] for command in run if command.startswith("steelyard ")}
    assert {"weigh", "fit", "quantize", "measure", "run", "verify", "report", "methods"} <= verbs


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Steelyard) -> None:
    monkeypatch.chdir(tmp_path)
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if title := _TITLE.search(block.info):
            Path(title[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, f"{page.name}, python block", "exec"), names)
        for command in block.commands() if block.language == "sh" else []:
            if runs(block, command) and _SYNTAX.search(command):
                ran = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
                assert ran.returncode == 0, f"{page.name}: {command}\n{ran.stderr}{ran.stdout}"
            elif runs(block, command):
                ended = steelyard(*shlex.split(command)[1:])
                assert ended.code == 0, f"{page.name}: {command}\n{ended.err}{ended.out}"
