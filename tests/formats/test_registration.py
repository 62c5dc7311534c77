"""`import steelyard` makes transformers know the native format, in any order; without it loading fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from formats.conftest import Build

pytest.importorskip("transformers")

_LOAD = """
import os, sys, warnings
os.environ["HF_HUB_OFFLINE"] = "1"
{imports}
from transformers import AutoModelForCausalLM
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(info.values()), info
print(type(model.lm_head).__name__)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "imports",
    [
        "import steelyard",
        "import transformers.quantizers.auto; import steelyard; import steelyard",
        "import steelyard; steelyard.registration.install(); import transformers",
    ],
)
def test_any_order_of_imports(written: Build, imports: str) -> None:
    folder = written("llama-tied", "float32", "steelyard").folder
    done = run(_LOAD.format(imports=imports), str(folder))
    assert done.stdout.split() == ["PackedLinear"], done.stderr


def test_it_costs_nothing() -> None:
    done = run(
        "import sys, steelyard; print([m for m in ('torch', 'transformers', 'numpy', 'numba') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_release_of_transformers_with_another_interface_is_still_importable() -> None:
    code = """
import sys, types, warnings
import steelyard
sys.modules["steelyard.formats.native.transformers_plugin"] = types.ModuleType("broken")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import transformers.quantizers.auto as auto
messages = [str(w.message) for w in caught if "own format" in str(w.message)]
print("steelyard" in auto.AUTO_QUANTIZER_MAPPING, messages)
"""
    done = run(code)
    assert done.stdout.startswith("False [\"folders in Steelyard's own format will not load: AttributeError"), done


def test_without_steelyard_loading_fails(written: Build) -> None:
    code = """
import sys
sys.modules["steelyard"] = None
import transformers
for job in sys.argv[1:]:
    kind, folder = job.split("=")
    try:
        getattr(transformers, kind).from_pretrained(folder)
        print("loaded", job)
    except RuntimeError as error:
        print("refused")
"""
    causal = [written(kind, "float32", "steelyard").folder for kind in ("llama", "llama-tied", "gpt2")]
    encoder = written("bert", "float32", "steelyard").folder
    done = run(code, *(f"AutoModelForCausalLM={folder}" for folder in causal), f"AutoModel={encoder}")
    assert done.stdout.split() == ["refused"] * 4, done.stderr
    assert "Unknown quantization type, got steelyard" in done.stderr and "MISMATCH" in done.stderr


def test_a_damaged_folder_is_one_clear_line(written: Build, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(written("llama", "float32", "steelyard").folder, tmp_path / "copy")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"version": 1', '"version": 7'))
    done = run(_LOAD.format(imports="import steelyard"), str(folder))
    assert "UserError: config.json: version 7 of the steelyard format; this program reads version 1" in done.stderr
