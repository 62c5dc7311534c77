"""Writing a composed model as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import steelyard
from steelyard.edits.stitch.options import JoinOptions
from steelyard.edits.stitch.parents import Composed, Parents
from steelyard.jobs import add_model_files
from steelyard.units import parse_size
from steelyard.weights import FolderWriter, bytes_hash, plan_layout

Record = Callable[[Mapping[str, Any]], bytes]
"""Returns the content of `steelyard.json` from its sections."""

_NOT_OURS = ("preparation.json", "alignment.json", "fusion.json", "README.md", "mergekit_config.yml")


def write(
    made: Composed,
    parents: Parents,
    path: Path,
    verb: str,
    options: JoinOptions,
    notes: Mapping[str, Any],
    resume: bool,
    record: Record | None,
) -> tuple[Path, int]:
    """Write a composed model with the first parent's other files; return its folder and its weights' bytes."""
    layout = plan_layout(made.stored(), parse_size(options.max_shard_size))
    config = made.config
    asked = options.model_dump(mode="json")
    plan = bytes_hash(json.dumps([verb, asked, config, steelyard.__version__]).encode())
    checkpoint = parents.first.model.checkpoint
    with FolderWriter(path, layout, resume=resume, plan_hash=plan, source=checkpoint.folder) as writer:
        for file in layout.files:
            for name in file.tensors:
                if not writer.done(name):
                    writer.write(name, made.tensor(name))
        add_model_files(writer, checkpoint, config, made=_NOT_OURS)
        if record is not None:
            composition = config["composition"]
            sections = {
                "verb": verb,
                "request": asked,
                "plan": {"joints": composition["joints"], "ways": composition["ways"], "way": composition["way"]},
                "inputs": {side: composition[side]["identity"] for side in ("first", "second")},
                "outputs": writer.file_hashes(weights=False),
                "tensors": writer.tensor_hashes(),
                "bytes": {"files": {file.name: file.size for file in layout.files}},
                "errors": {},
                **notes,
            }
            writer.add_file("steelyard.json", record(sections))
        return writer.finish(), layout.total_bytes
