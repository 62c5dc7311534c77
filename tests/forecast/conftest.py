"""Public tables of runs, where they are there."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def public() -> SimpleNamespace:
    """What `benchmarks/_forecast_data.py` defines; skips where the shared tables are absent."""
    found = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "_forecast_data.py")))
    if not found.DATA.is_dir():
        pytest.skip("the shared tables of runs are not on this machine")
    return found
