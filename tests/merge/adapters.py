"""Adapters and their bases as folders, from the arrays that peft made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "golden" / "peft.npz"


class Golden:
    """What `benchmarks/peers/peft_golden.py` wrote."""

    def __init__(self) -> None:
        with np.load(GOLDEN) as arrays:
            self._arrays = {name: arrays[name] for name in arrays.files}

    @property
    def cases(self) -> list[str]:
        """Names of the adapters."""
        return sorted(name.removesuffix("/kind") for name in self._arrays if name.endswith("/kind"))

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays below a name."""
        start = prefix + "/"
        return {name[len(start) :]: array for name, array in self._arrays.items() if name.startswith(start)}

    def base(self, case: str) -> dict[str, np.ndarray]:
        """Tensors of the model that an adapter is for."""
        return self.group(f"{self._arrays[f'{case}/kind']}/base")

    def write(self, folder: Path, case: str) -> tuple[Path, Path]:
        """Write an adapter and its base; return (base, adapter)."""
        base, adapter = folder / "base", folder / "adapter"
        base.mkdir()
        save_file(self.base(case), base / "model.safetensors", metadata={"format": "pt"})
        (base / "config.json").write_text(str(self._arrays[f"{self._arrays[f'{case}/kind']}/config"]))
        write_adapter(adapter, self.settings(case), self.group(f"{case}/adapter"))
        return base, adapter

    def settings(self, case: str) -> dict[str, object]:
        """The adapter's configuration."""
        found: dict[str, object] = json.loads(str(self._arrays[f"{case}/config"]))
        return found


def write_adapter(folder: Path, settings: dict[str, object], tensors: dict[str, np.ndarray]) -> Path:
    """Write an adapter's two files."""
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
