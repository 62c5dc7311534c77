"""Load an extracted adapter with peft itself, and compare the model it makes with the one it was extracted from.

Run with an interpreter that has peft, transformers and torch:
python benchmarks/peers/peft_loads.py BASE ADAPTER REACHED
"""

from __future__ import annotations

import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main(base: str, adapter: str, reached: str) -> None:
    """Print how far the logits of the three models lie apart, and what peft had to say."""
    tokens = torch.randint(0, 15, (2, 12), generator=torch.Generator().manual_seed(0))

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(tokens).logits.double()

    expected = logits(AutoModelForCausalLM.from_pretrained(reached, dtype=torch.float32))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = logits(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, adapter)
    found = logits(adapted)
    merged = logits(adapted.merge_and_unload())
    scale = expected.norm()
    print(f"base      {(before - expected).norm() / scale:.2e}")
    print(f"adapter   {(found - expected).norm() / scale:.2e}")
    print(f"merged    {(merged - expected).norm() / scale:.2e}")
    for warning in caught:
        print(f"warning   {str(warning.message)[:200]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
