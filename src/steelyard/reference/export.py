"""From a training run's folder to a Hugging Face folder, and to the folder of a codec."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.reference import checkpoint
from steelyard.reference.network import build_model, matrices
from steelyard.reference.options import TrainOptions

RECORD = "training.json"
"""What the run was, beside the weights."""


def export(run_folder: Path, out: Path, options: TrainOptions) -> None:
    """Write the last checkpoint of a run as a Hugging Face folder in bfloat16.

    Matrices that trained in low precision are written as the products saw them, which bfloat16 holds exactly.

    Raises:
        UserError: if the run has no checkpoint yet, or was trained with other options.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from steelyard.reference.linears import weight_seen

    origin = checkpoint.choose(run_folder, options)
    if origin is None:
        raise UserError(f"{run_folder} has no checkpoint to export")
    model = build_model(options)
    saved = load_file(origin[0])
    seen = set(matrices(model))
    weights = {}
    for name, _ in model.named_parameters():
        value = saved[f"model.{name}"]
        weights[name] = (weight_seen(value, options.linears) if name in seen else value).to(torch.bfloat16)
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
    record = _record(run_folder, sum(weight.numel() for weight in weights.values()), origin[1], options)
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def export_packed(model: Path, out: Path, options: TrainOptions, progress: Progress = SILENT) -> int:
    """Write an exported model again with its matrices in the codec they trained in; return its bytes.

    Raises:
        UserError: if they trained in floats that need no codec, or `out` exists.
    """
    from steelyard.budget.knowledge import KnowledgeBase
    from steelyard.budget.plan import Plan, TensorPlan
    from steelyard.budget.produce import produce
    from steelyard.formats import get as get_format
    from steelyard.jobs import open_model
    from steelyard.reference.linears import codec_of
    from steelyard.weights import check_output

    codec = codec_of(options.linears)
    if codec is None:
        raise UserError(f"linear maps in {options.linears} have no codec of their own; export them as they are")
    with open_model(model) as opened:
        path = check_output(out, opened.checkpoint.folder)
        spec = opened.spec
        inside = {name for name in spec.quantizable() if ".layers." in name}
        tensors = {
            name: TensorPlan(name, codec, "absmax") if name in inside else TensorPlan(name, None)
            for name in spec.tensors
        }
        request = {"verb": "train-reference", **options.model_dump()}
        plan = Plan("steelyard", tensors, 5 * 10**9, request)
        made = produce(plan, opened, get_format("steelyard"), KnowledgeBase(None), path, progress=progress)
    lossy = max(made.errors.values(), default=0.0)
    if lossy > 0:
        raise UserError(f"{model} was not trained in {codec.label}: packing it would lose {lossy:.2g} of a matrix")
    return int(made.layout.total_bytes)


def _record(run_folder: Path, parameters: int, step: int, options: TrainOptions) -> dict[str, Any]:
    log = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    tokens = step * options.tokens_per_step
    return {
        "parameters": parameters,
        "steps": step,
        "tokens_seen": tokens,
        "tokens_per_parameter": round(tokens / parameters, 3),
        "last_batch_loss_nats_per_token": log[-1]["loss"],
        "seconds": round(sum(entry["seconds"] for entry in log)),
        "options": options.model_dump(),
    }
