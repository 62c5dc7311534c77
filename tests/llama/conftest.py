"""llama.cpp as `make test-llama` builds it; without it these tests are skipped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PYTHON = Path(__file__).parents[2] / "benchmarks" / ".llama" / "bin" / "python"
Run = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Sends llama.cpp a request; see `child.py`."""
    if not any("llama" in argument for argument in request.config.invocation_params.args):
        pytest.skip("these take minutes; make test-llama runs them")
    if not PYTHON.exists():
        pytest.skip("llama.cpp is not built here; make test-llama builds it")
    place = tmp_path_factory.mktemp("llama")
    count = 0

    def run(do: str, model: Path, **settings: Any) -> dict[str, np.ndarray]:
        nonlocal count
        count += 1
        out = place / f"{count}.npz"
        asked = json.dumps({"do": do, "model": str(model), **settings})
        child = [str(PYTHON), str(Path(__file__).with_name("child.py")), str(out)]
        done = subprocess.run(child, input=asked, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(out) as found:
            return dict(found)

    return run
