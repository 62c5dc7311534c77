"""Measuring a folder as plain transformers loads it, in a process of its own.

    python -m steelyard.measure.loaded MODEL [TEXT ...] [--against BASE]

prints one JSON object: the measurement and what the loader had to say. Nothing of Steelyard takes part in
loading, except for folders in its own format, which need its plugin. That is what makes it evidence.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import SteelyardError, UserError
from steelyard.measure.measurement import Measurement
from steelyard.measure.model import Model, open_model
from steelyard.measure.windows import TokenSet


@dataclass(frozen=True)
class Loaded:
    """A folder as transformers sees it.

    Attributes:
        measurement: how it does.
        missing: parameters the loader filled at random because no tensor was found for them.
        unexpected: tensors the loader had no use for.
        loader: class that was loaded.
    """

    measurement: Measurement
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    loader: str


def measure_loaded(
    location: str | Path, data: TokenSet, against: str | Path | None = None, batch_tokens: int = 4096
) -> Loaded:
    """Load a folder with plain transformers in a fresh process and measure it there.

    Args:
        location: the folder.
        data: windows of text, from `windows.cut` with its base's tokenizer.
        against: the base's folder, loaded the same way; None to measure the loss alone.
        batch_tokens: positions run at once.

    Raises:
        UserError: if it cannot be loaded or measured, with the last line of what went wrong.
    """
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        windows = Path(folder) / "windows.npz"
        data.save(windows)
        command = [sys.executable, "-m", "steelyard.measure.loaded", str(location)]
        command += ["--windows", str(windows), "--batch-tokens", str(batch_tokens)]
        command += [] if against is None else ["--against", str(against)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"transformers cannot load {location}: {reason}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    measurement = Measurement.from_dict(result["measurement"])
    return Loaded(measurement, tuple(result["missing"]), tuple(result["unexpected"]), result["loader"])


def load(model: Model) -> tuple[Any, Mapping[str, Any]]:
    """Return a folder's model as `from_pretrained` makes it, in float32, and the loader's report."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if model.source.config.get("quantization_config", {}).get("quant_method") == "steelyard":
        import steelyard.formats.native.transformers_plugin  # noqa: F401 - registers itself
    loader: Any = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "encoder": AutoModel}[model.task]
    loaded, report = loader.from_pretrained(
        model.location, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    return loaded.eval(), report


def measure_in_process(model: Model, base: Model | None, data: TokenSet, batch_tokens: int = 4096) -> Loaded:
    """Load with transformers in this process and measure; see `measure_loaded`."""
    from steelyard.measure.scores import embedding_measurement, language_measurement

    module, report = load(model)
    base_module = None if base is None else load(base)[0]
    seed = 0
    if model.task == "encoder":
        if base is None:
            raise UserError(f"{model.location} is an encoder and has no loss; name a base with --against")
        first, second = (_embeddings(m, model, data, batch_tokens) for m in (module, base_module))
        measurement = embedding_measurement(first, second, data, model.location, base.location, seed)
    else:
        sums = _sums(module, base_module, model, data, batch_tokens)
        name = None if base is None else base.location
        measurement = language_measurement(sums, data, model.location, name, model.task, seed)
    missing, unexpected = (tuple(sorted(report.get(key, ()))) for key in ("missing_keys", "unexpected_keys"))
    return Loaded(measurement, missing, unexpected, type(module).__name__)


def _sums(module: Any, base: Any, model: Model, data: TokenSet, batch_tokens: int) -> dict[str, np.ndarray]:
    import torch

    from steelyard.measure.fisher import parts_of
    from steelyard.measure.scores import score_tokens

    sums: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for batch in data.batches(batch_tokens):
            for _, part in parts_of(batch, model.vocabulary):
                logits, base_logits = (
                    None if m is None else m(**_arguments(model, part), use_cache=False).logits
                    for m in (module, base)
                )
                assert logits is not None
                for key, value in score_tokens(logits, part.labels, base_logits).items():
                    sums.setdefault(key, np.zeros(len(data.windows)))[part.windows] = value
    return sums


def _embeddings(module: Any, model: Model, data: TokenSet, batch_tokens: int) -> np.ndarray:
    import torch

    from steelyard.measure.fisher import pool

    found: dict[int, np.ndarray] = {}
    with torch.no_grad():
        for batch in data.batches(batch_tokens):
            states = module(**_arguments(model, batch)).last_hidden_state
            found.update(zip(batch.windows.tolist(), pool(states, batch, model).numpy(), strict=True))
    return np.stack([found[number] for number in range(len(data.windows))])


def _arguments(model: Model, batch: Any) -> dict[str, Any]:
    import torch

    arguments = {"input_ids": torch.from_numpy(batch.inputs)}
    if model.task != "causal":
        arguments["attention_mask"] = torch.from_numpy(batch.valid.astype(np.int64))
    return arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the fresh process."""
    from steelyard.measure.evaluate import EvaluationOptions, held_out_windows
    from steelyard.measure.texts import load_documents
    from steelyard.weights import Checkpoint

    parser = argparse.ArgumentParser(prog="python -m steelyard.measure.loaded")
    parser.add_argument("model")
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--against")
    parser.add_argument("--windows", type=Path)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    given = parser.parse_args(arguments)
    try:
        # Only headers and the files beside them are read here; transformers reads the weights.
        model = open_model(given.model, Checkpoint.open(given.model))
        base = open_model(given.against, Checkpoint.open(given.against)) if given.against else None
        if given.windows:
            data = TokenSet.load(given.windows)
        else:
            data = held_out_windows(base or model, load_documents(given.texts), EvaluationOptions())
        result = measure_in_process(model, base, data, given.batch_tokens)
    except SteelyardError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    answer = {
        "measurement": result.measurement.to_dict(),
        "missing": result.missing,
        "unexpected": result.unexpected,
        "loader": result.loader,
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
