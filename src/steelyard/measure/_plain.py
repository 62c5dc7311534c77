"""Run as a script, not as a module: loads folders with plain transformers before Steelyard is imported at all.

    python -P _plain.py WINDOWS.npz BATCH_TOKENS TASK MODEL [BASE]

`loaded.measure_loaded` starts it. Importing the package first would register its own format with transformers, and
what loads then would be no evidence for users who do not have it.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def load(location: str, task: str) -> tuple[Any, Any]:
    """Return a folder's model as `from_pretrained` makes it, in float32, and the loader's report."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaders: dict[str, Any] = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "encoder": AutoModel}
    model, report = loaders[task].from_pretrained(
        location, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    return model.eval(), report


def main(windows: str, batch_tokens: str, task: str, *locations: str) -> None:
    """Load, then score with Steelyard, and print one JSON object."""
    own_format = [location for location in locations if needs_steelyard(location)]
    if own_format:
        import steelyard  # noqa: F401 - registers its format
    loaded = [load(location, task) for location in locations]
    alone = not any(name.partition(".")[0] == "steelyard" for name in sys.modules)

    from steelyard.measure.loaded import score

    answer = score([model for model, _ in loaded], locations, windows, int(batch_tokens))
    report = loaded[0][1]
    answer["loader"] = type(loaded[0][0]).__name__
    answer["without_steelyard"] = alone
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        answer[key] = sorted(map(str, report.get(key) or ()))
    sys.stdout.write(json.dumps(answer) + "\n")


def needs_steelyard(location: str) -> bool:
    """Tell whether a folder is in Steelyard's own format."""
    try:
        with open(f"{location}/config.json", encoding="utf-8") as file:
            quantization = json.load(file).get("quantization_config") or {}
    except OSError:  # a model in the Hugging Face cache, by its name
        return False
    return bool(quantization.get("quant_method") == "steelyard")


if __name__ == "__main__":
    main(*sys.argv[1:])
