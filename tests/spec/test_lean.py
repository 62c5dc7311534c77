"""The ground floor stands alone."""

from __future__ import annotations

import subprocess
import sys


def test_spec_imports_neither_torch_nor_any_floor_above() -> None:
    program = (
        "import sys, steelyard.spec as spec; spec.architectures(); "
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'transformers', 'numpy')]); "
        "print(sorted(name for name in sys.modules if name.startswith('steelyard.') and 'spec' not in name))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # `steelyard.registration` is what `import steelyard` itself leaves behind: a finder that imports nothing.
    assert result.stdout.splitlines() == [
        "[]",
        "['steelyard.errors', 'steelyard.packages', 'steelyard.registration']",
    ]
