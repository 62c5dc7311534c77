"""Fine-tuning of the reference model: the training run of `train`, begun from finished weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from steelyard.errors import UserError
from steelyard.reference import checkpoint
from steelyard.reference.export import export
from steelyard.reference.network import build_model
from steelyard.reference.options import TrainOptions
from steelyard.reference.tokenizer import encode_stream
from steelyard.reference.train import Run, Step

_COPIED = ("tokenizer.json", "tokenizer_config.json")


def fine_tune(
    begin: Path,
    texts: Sequence[str],
    run_folder: Path,
    out: Path,
    options: TrainOptions,
    report: Callable[[Step], None] = lambda step: None,
) -> None:
    """Train a finished reference model further on other texts, and write it as a Hugging Face folder.

    An interrupted run continues from its last checkpoint.

    Args:
        begin: folder of the model begun from, a Llama that `train-reference` made.
        texts: documents to train on.
        run_folder: of the run; made where it is missing.
        out: folder of the finished model.
        options: of the run; its shape is the model's, whatever they say of it.
        report: told of every step.

    Raises:
        UserError: if `begin` is of another kind, or the texts are too few.
    """
    whole = _with_shape(options, begin)
    run_folder.mkdir(parents=True, exist_ok=True)
    if not (run_folder / checkpoint.LAST).exists():
        _prepare(begin, texts, run_folder, whole)
    Run(run_folder, whole, resume=True).train(report)
    export(run_folder, out, whole)


def _prepare(begin: Path, texts: Sequence[str], run_folder: Path, options: TrainOptions) -> None:
    """Write what a run finds at its start: the tokens of the texts, and the weights as a checkpoint of step 0."""
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    for name in _COPIED:
        shutil.copyfile(begin / name, run_folder / name)
    tokens = encode_stream(Tokenizer.from_file(str(begin / "tokenizer.json")), texts)
    partial = run_folder / "tokens.partial"
    with open(partial, "wb") as file:
        np.save(file, tokens)
    os.replace(partial, run_folder / "tokens.npy")
    model, weights = build_model(options), load_file(begin / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    checkpoint.save(run_folder / checkpoint.LAST, 0, options, model, [])


def _with_shape(options: TrainOptions, begin: Path) -> TrainOptions:
    config = json.loads((begin / "config.json").read_text())
    if config.get("model_type") != "llama":
        raise UserError(
            f"{begin} is a {config.get('model_type')}; only a Llama of train-reference can be tuned here"
        )
    shape = {
        "vocabulary": config["vocab_size"],
        "hidden": config["hidden_size"],
        "ffn": config["intermediate_size"],
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
    }
    return TrainOptions(**{**options.model_dump(), **shape})
