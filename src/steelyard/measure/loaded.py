"""Measuring a folder as plain transformers loads it, in a process of its own.

    python -m steelyard.measure.loaded MODEL TEXT ... [--against BASE]

prints one JSON object: the measurement and what the loader had to say. In the fresh process Steelyard is imported
only after everything is loaded (see `_plain`), except for folders in its own format, which need it. That is what
makes it evidence.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import SteelyardError, UserError
from steelyard.measure.measurement import Measurement
from steelyard.measure.model import Model, open_model
from steelyard.measure.windows import Batch, Task, TokenSet
from steelyard.weights import Checkpoint


@dataclass(frozen=True)
class Loaded:
    """A folder as transformers sees it.

    Attributes:
        measurement: how it does.
        missing: parameters the loader filled at random because no tensor was found for them.
        unexpected: tensors the loader had no use for.
        mismatched: parameters filled at random because the tensor has another shape.
        loader: class that was loaded.
        without_steelyard: whether Steelyard had not even been imported when the folder was loaded.
    """

    measurement: Measurement
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    loader: str
    without_steelyard: bool


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
    owner = open_model(location, Checkpoint.open(location))
    if owner.task == "encoder" and against is None:
        raise UserError(f"{location} is an encoder and has no loss; name a base with --against")
    locations = [str(location)] + ([] if against is None else [str(against)])
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        windows = Path(folder) / "windows.npz"
        data.save(windows)
        script = str(Path(__file__).with_name("_plain.py"))
        # Without -P the script's own folder would come first on the path, and its files shadow others.
        command = [sys.executable, "-P", script, str(windows), str(batch_tokens), owner.task, *locations]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"transformers cannot load {location}: {reason}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return Loaded(
        measurement=Measurement.from_dict(result["measurement"]),
        missing=tuple(result["missing_keys"]),
        unexpected=tuple(result["unexpected_keys"]),
        mismatched=tuple(result["mismatched_keys"]),
        loader=result["loader"],
        without_steelyard=result["without_steelyard"],
    )


def score(modules: Sequence[Any], locations: Sequence[str], windows: str, batch_tokens: int) -> dict[str, Any]:
    """Score loaded models; called in the fresh process, after they are loaded.

    Args:
        modules: the model, and the base if there is one.
        locations: their folders.
        windows: file of the windows, see `TokenSet.save`.
        batch_tokens: positions run at once.

    Returns:
        {"measurement": the measurement as plain data}.
    """
    from steelyard.measure.scores import embedding_measurement, language_measurement

    data = TokenSet.load(Path(windows))
    seed = 0
    base = modules[1] if len(modules) > 1 else None
    model = open_model(locations[-1], Checkpoint.open(locations[-1]))
    task = model.task
    if task == "encoder":
        first, second = (_embeddings(module, model, data, batch_tokens) for module in (modules[0], modules[-1]))
        measurement = embedding_measurement(first, second, data, locations[0], locations[-1], seed)
    else:
        sums = _sums(modules[0], base, task, data, batch_tokens)
        measurement = language_measurement(sums, data, locations[0], locations[-1], task, seed)
    return {"measurement": measurement.to_dict()}


def _sums(module: Any, base: Any, task: Task, data: TokenSet, batch_tokens: int) -> dict[str, np.ndarray]:
    import torch

    from steelyard.measure.fisher import parts_of
    from steelyard.measure.scores import score_tokens

    sums: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for batch in data.batches(batch_tokens):
            for _, part in parts_of(batch, module.get_output_embeddings().weight.shape[0]):
                logits, base_logits = (
                    None if m is None else m(**_arguments(task, part), use_cache=False).logits
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
            states = module(**_arguments("encoder", batch)).last_hidden_state
            found.update(zip(batch.windows.tolist(), pool(states, batch, model).numpy(), strict=True))
    return np.stack([found[number] for number in range(len(data.windows))])


def _arguments(task: Task, batch: Batch) -> dict[str, Any]:
    import torch

    arguments = {"input_ids": torch.from_numpy(batch.inputs)}
    if task != "causal":
        arguments["attention_mask"] = torch.from_numpy(batch.valid.astype(np.int64))
    return arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m steelyard.measure.loaded`."""
    from steelyard.measure.evaluate import EvaluationOptions, held_out_windows
    from steelyard.measure.texts import load_documents

    parser = argparse.ArgumentParser(prog="python -m steelyard.measure.loaded")
    parser.add_argument("model")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--against")
    given = parser.parse_args(arguments)
    try:
        owner = given.against or given.model
        data = held_out_windows(
            open_model(owner, Checkpoint.open(owner)), load_documents(given.texts), EvaluationOptions()
        )
        result = measure_loaded(given.model, data, given.against)
    except SteelyardError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    answer = asdict(result) | {"measurement": result.measurement.to_dict()}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
