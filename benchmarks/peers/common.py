"""What every peer's run shares: the model, the calibration tokens, and the record of what it cost and made.

Runs in the peers' own environment, without Steelyard. A peer's result is judged twice: by the bytes of the weight
files it saves, and by the weights it computes with, which are written decoded so that one program measures all.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


def peak_bytes() -> int:
    """Most resident bytes of this process. (`getrusage` would count the parent's, inherited at the fork.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Run:
    """One run of one peer: `python PEER.py MODEL TOKENS.npy OUT key=value ...`."""

    def __init__(self) -> None:
        self.model_path, self.tokens_path, out = sys.argv[1:4]
        self.options = dict(argument.split("=", 1) for argument in sys.argv[4:])
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.seconds = 0.0

    def integer(self, name: str) -> int:
        return int(self.options[name])

    def tokens(self) -> torch.Tensor:
        """Calibration tokens [sequences, length]."""
        return torch.from_numpy(np.load(self.tokens_path).astype(np.int64))

    def model(self) -> Any:
        """The model in the type it is stored in."""
        import transformers

        config = transformers.AutoConfig.from_pretrained(self.model_path)
        causal = any("CausalLM" in name for name in config.architectures)
        kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
        return kind.from_pretrained(self.model_path, dtype="auto").eval()

    def timed(self, work: Any) -> Any:
        began = time.monotonic()
        result = work()
        self.seconds += time.monotonic() - began
        return result

    def finish(self, weights: dict[str, torch.Tensor], saved: Path) -> None:
        """Write the decoded weights and the record."""
        from safetensors.torch import save_file

        save_file(
            {name: w.detach().float().contiguous() for name, w in weights.items()}, self.out / "decoded.safetensors"
        )
        files = [*saved.rglob("*.safetensors"), *saved.rglob("*.safetensors.index.json"), *saved.rglob("*.pt")]
        record = {
            "nbytes": sum(file.stat().st_size for file in files),
            "seconds": self.seconds,
            "peak_bytes": peak_bytes(),
        }
        (self.out / "record.json").write_text(json.dumps(record))


def linears(model: Any) -> dict[str, torch.nn.Linear]:
    """Every linear layer of the blocks: heads and embeddings stay as they are, as these peers have it."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith(("lm_head", "pooler.dense"))
    }
