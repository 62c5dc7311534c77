"""The last proof: transformers loads the staged folder in a fresh process, and computes what was measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.errors import UserError, VerificationError
from steelyard.formats.gguf.writing import FILE_NAME as GGUF_FILE
from steelyard.formats.gguf.writing import part_name
from steelyard.progress import SILENT, Progress
from steelyard.report import Certificate

if TYPE_CHECKING:
    from steelyard.measure.measurement import Measurement
    from steelyard.measure.windows import TokenSet

# How far two programs' measurements of one model may lie apart: a share of the damage, and float32's noise.
_AGREEMENT = 0.02
_NOISE = 1e-4

# Loads a folder as a user would and prints what the loader reports. Steelyard is imported only for its own format.
_SCRIPT = """
import json, sys
folder, native = sys.argv[1], sys.argv[2] == "1"
file = {"gguf_file": sys.argv[3]} if len(sys.argv) > 3 else {}
if native:
    import steelyard
else:
    sys.modules["steelyard"] = None
import torch, transformers
transformers.logging.set_verbosity_error()
config = transformers.AutoConfig.from_pretrained(folder)
names = config.architectures or ["AutoModel"]
kind = getattr(transformers, names[0], transformers.AutoModel)
if "CausalLM" in names[0]:
    kind = transformers.AutoModelForCausalLM
elif "MaskedLM" in names[0]:
    kind = transformers.AutoModelForMaskedLM
model, info = kind.from_pretrained(folder, output_loading_info=True, **file)
ids = torch.arange(16)[None] % config.vocab_size
with torch.no_grad():
    out = model(input_ids=ids)
out = out.logits if hasattr(out, "logits") else out.last_hidden_state
problems = {key: sorted(map(str, info[key])) for key in info if info[key]}
print("STEELYARD" + json.dumps({"class": type(model).__name__, "finite": bool(torch.isfinite(out).all()),
      "problems": problems, "version": transformers.__version__, "sum": float(out.double().abs().mean())}))
"""


def load_certificate(folder: Path, progress: Progress = SILENT) -> Certificate:
    """Load a folder in a fresh process.

    Raises:
        VerificationError: if it does not load, a tensor is missing or new, or its output is not finite.
    """
    if any(folder.glob(part_name(0, 1).replace("00001", "*"))):
        return Certificate("loads in transformers", "skipped", "transformers reads GGUF from one file, not a split")
    progress.start("loading in transformers", 1)
    quantization = json.loads((folder / "config.json").read_bytes()).get("quantization_config") or {}
    native = quantization.get("quant_method") == "steelyard"
    file = [GGUF_FILE] if (folder / GGUF_FILE).exists() else []
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(folder), "1" if native else "0", *file], capture_output=True, text=True
    )
    progress.finish()
    line = next((line for line in ran.stdout.splitlines() if line.startswith("STEELYARD")), None)
    if ran.returncode != 0 or line is None:
        last = (ran.stderr.strip().splitlines() or ["no output"])[-1]
        raise VerificationError(f"{folder} does not load in transformers: {last}")
    found = json.loads(line.removeprefix("STEELYARD"))
    if found["problems"]:
        kind, names = next(iter(found["problems"].items()))
        raise VerificationError(f"{folder}: transformers reports {kind}: {names[0]}")
    if not found["finite"]:
        raise VerificationError(f"{folder}: the loaded model's output is not finite")
    how = "after `import steelyard`" if native else "without steelyard"
    return Certificate(
        "loads in transformers",
        "pass",
        f"{found['class']}, transformers {found['version']}, {how}, nothing missing",
    )


def agreement_certificate(
    folder: Path, base: str, data: TokenSet, measured: Measurement, progress: Progress = SILENT
) -> Certificate:
    """Measure a folder as transformers loads and runs it, beside its base, and compare with what was measured here.

    Raises:
        VerificationError: if it does not load, or the two measurements differ by more than rounding explains.
    """
    from steelyard.measure.loaded import measure_loaded

    progress.start("measuring in transformers", 1)
    try:
        loaded = measure_loaded(folder, data, base)
    except UserError as error:
        raise VerificationError(str(error)) from None
    finally:
        progress.finish()
    ours, theirs = measured.damage, loaded.measurement.damage
    if ours is None or theirs is None or loaded.missing:
        raise VerificationError(f"{folder}: transformers fills {', '.join(loaded.missing[:3])} at random")
    if abs(ours.value - theirs.value) > _AGREEMENT * ours.value + _NOISE:
        raise VerificationError(
            f"{folder}: transformers measures a damage of {theirs.value:.5g}, {ours.value:.5g} was measured here"
        )
    detail = f"{theirs.value:.4g} there, {ours.value:.4g} here, on the same {measured.tokens:,} tokens"
    return Certificate("same damage in transformers", "pass", detail)
