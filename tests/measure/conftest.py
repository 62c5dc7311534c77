from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .models import build_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of tiny random models, each saved once."""
    made: dict[tuple[object, ...], Path] = {}

    def get(kind: str, **changes: object) -> Path:
        key = (kind, *sorted(changes.items()))
        if key not in made:
            made[key] = build_tiny(kind, tmp_path_factory.mktemp(kind.replace("-", "_")), **changes)
        return made[key]

    return get
