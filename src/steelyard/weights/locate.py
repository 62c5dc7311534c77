"""From what the user typed to a store: folders, single files, the Hugging Face cache, fsspec URLs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from steelyard.errors import UserError
from steelyard.weights.remote import RemoteStore
from steelyard.weights.stores import LocalStore, Store

_HUB_ID = re.compile(r"(?P<model>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_SUFFIX = ".safetensors"


def locate(location: str | Path, hub_cache: Path | None = None) -> tuple[Store, str | None]:
    """Return the store that a location names, and the single file in it if it names one.

    Args:
        location: a folder, a .safetensors file, an fsspec URL of either, or "org/name[@revision]" of a
            model in the local Hugging Face cache. Nothing is downloaded. A path that exists wins.
        hub_cache: the cache's folder; where `huggingface_hub` keeps it if absent.

    Raises:
        UserError: if there is no such thing.
    """
    text = os.fspath(location)
    if not text.strip():
        raise UserError("an empty path names no model; give a model folder or a .safetensors file")
    if "://" in text:
        scheme, _, rest = text.partition("://")
        if scheme not in {"file", "local"}:
            folder, _, name = text.rstrip("/").rpartition("/")
            return (RemoteStore(folder), name) if name.endswith(_SUFFIX) else (RemoteStore(text), None)
        text = rest
    path = Path(os.path.expanduser(text))
    # Not the methods of Path: they raise for names that are too long or in folders closed to the user.
    if os.path.isdir(path):
        return LocalStore(path), None
    if os.path.isfile(path):
        if path.suffix != _SUFFIX:
            raise UserError(f"{path} is not a .safetensors file; give a model folder or a .safetensors file")
        return LocalStore(path.parent), path.name
    match = _HUB_ID.fullmatch(text)
    if match is None or text.endswith(_SUFFIX) or text.startswith("."):
        raise UserError(f"{path} does not exist; give a model folder or a .safetensors file")
    return LocalStore(_snapshot(match["model"], match["revision"], hub_cache or _hub_cache())), None


def _snapshot(model: str, revision: str | None, cache: Path) -> Path:
    """Return the folder of one revision in the cache's layout: models--org--name/snapshots/<commit>."""
    folder = cache / ("models--" + model.replace("/", "--"))
    wanted = revision or "main"
    reference = folder / "refs" / wanted
    try:
        commit = reference.read_text().strip() if reference.is_file() else wanted
    except (OSError, UnicodeError):
        commit = wanted
    snapshot = folder / "snapshots" / commit
    if "/" not in commit and commit not in {"", ".", ".."} and snapshot.is_dir():
        return snapshot
    download = f"hf download {model}" + (f" --revision {revision}" if revision else "")
    shown = model + (f"@{revision}" if revision else "")
    raise UserError(
        f"{shown} is neither a file or folder here nor in the Hugging Face cache {cache}; "
        f"to download it: {download}"
    )


def _hub_cache() -> Path:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return Path.home() / ".cache" / "huggingface" / "hub"
    return Path(HF_HUB_CACHE)
