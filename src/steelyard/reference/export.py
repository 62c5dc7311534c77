"""From a training run's folder to a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from steelyard.errors import UserError
from steelyard.reference import checkpoint
from steelyard.reference.network import build_model
from steelyard.reference.options import TrainOptions


def export(run_folder: Path, out: Path, options: TrainOptions) -> None:
    """Write the last checkpoint of a run as a Hugging Face folder in bfloat16.

    Raises:
        UserError: if the run has no checkpoint yet, or was trained with other options.
    """
    import torch
    from safetensors.torch import load_file, save_file

    origin = checkpoint.choose(run_folder, options)
    if origin is None:
        raise UserError(f"{run_folder} has no checkpoint to export")
    model = build_model(options)
    saved = load_file(origin[0])
    weights = {name: saved[f"model.{name}"].to(torch.bfloat16) for name, _ in model.named_parameters()}
    out.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    shutil.copyfile(run_folder / "tokenizer.json", out / "tokenizer.json")
    settings = json.loads((run_folder / "tokenizer_config.json").read_text())
    settings["model_max_length"] = options.context
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
