"""What goes into a result beside its weights: config, tokenizer, the recipe, a model card, the record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from steelyard.edits.merge.options import ASIDE, MergeOptions
from steelyard.edits.merge.preflight import Prepared
from steelyard.weights import FolderWriter

RECIPE_FILE = "mergekit_config.yml"
"""The recipe beside the weights, under the name by which hubs know merges."""

_OWN_FILES = frozenset({"config.json", "steelyard.json", "report.html", "README.md", RECIPE_FILE})

Record = Callable[[Mapping[str, Any]], bytes]
"""Returns the content of `steelyard.json` from its sections."""


def add_files(writer: FolderWriter, ready: Prepared) -> None:
    """Add everything but the record."""
    writer.add_file("config.json", (json.dumps(ready.plan.config, indent=2) + "\n").encode())
    files = ready.donor.checkpoint
    left = _OWN_FILES | ready.left_out | ready.files.keys()
    writer.carry(files, [name for name in files.other_files if name not in left])
    for name, data in ready.files.items():
        writer.add_file(name, data)
    writer.add_file(RECIPE_FILE, ready.recipe.text.encode())
    writer.add_file("README.md", card(ready, writer.out.name).encode())


def card(ready: Prepared, name: str) -> str:
    """Return a model card: what was merged, how, and the recipe."""
    head = {
        "base_model": [str(reference) for reference in ready.recipe.references()],
        "library_name": "transformers",
        "tags": ["merge", "mergekit", "steelyard"],
    }
    method = ready.plan.method
    paper = f" ({method.paper})" if method.paper else ""
    fence = "```"
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {name}\n\n"
        f"Merged by Steelyard with `{method.name}`: {method.summary}{paper}.\n\n"
        + "".join(f"- {label}\n" for label in ready.plan.models)
        + f"\n{fence}yaml\n{ready.recipe.text.strip()}\n{fence}\n"
    )


def record_of(writer: FolderWriter, ready: Prepared, options: MergeOptions, record: Record) -> bytes:
    """Return `steelyard.json`: nothing in it depends on the clock, on threads or on where the result lies."""
    plan = ready.plan
    asked = options.model_dump(mode="json", exclude=set(ASIDE))
    return record(
        {
            "verb": "merge",
            "request": {"recipe": ready.recipe.text, "name": ready.recipe.name, **asked},
            "plan": plan.to_dict(),
            "inputs": {model.label: _files(model.checkpoint, options.hash_inputs) for model in ready.models},
            "outputs": writer.file_hashes(weights=False),
            "tensors": writer.tensor_hashes(),
            "bytes": {"files": {file.name: file.size for file in ready.layout.files}},
            "errors": {},
            "notes": list(plan.notes),
        }
    )


def _files(checkpoint: Any, hashed: bool) -> dict[str, Any]:
    """Return the size of a model's weights, or the hash of each of its files."""
    if hashed:
        return {"blake3": checkpoint.content_hash()}
    folder: Path | None = checkpoint.folder
    if folder is None:
        return {"bytes": checkpoint.weight_bytes}
    return {"bytes": {file: (folder / file).stat().st_size for file in checkpoint.weight_files}}
