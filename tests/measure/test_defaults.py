from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.measure import defaults
from steelyard.measure.defaults import default_corpora
from steelyard.measure.generate import generate
from steelyard.measure.model import Model, open_model
from steelyard.seeds import generator
from steelyard.weights import Checkpoint


def opened(folder: Path) -> Model:
    return open_model(folder, Checkpoint.open(folder))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_written_text_is_drawn_from_the_model(kind: str, tiny: Callable[..., Path]) -> None:
    """Each token is where its draw falls in the distribution a full forward pass without a cache gives."""
    import torch
    import transformers

    folder = tiny(kind)
    documents = generate(opened(folder), [3, 8], 20, seed=5)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    for number, document in zip([3, 8], documents, strict=True):
        assert document.tokens is not None and document.tokens[0] == 256 and len(document.tokens) == 20
        with torch.no_grad():
            logits = reference(input_ids=torch.from_numpy(document.tokens[None])).logits[0]
        cumulative = logits.double().softmax(-1).cumsum(-1).numpy()
        draws = generator(5, f"generated text {number}").random(20)
        for place in range(1, 20):
            token = document.tokens[place]
            below = cumulative[place - 1][token - 1] if token else 0.0
            assert below - 1e-4 <= draws[place] <= cumulative[place - 1][token] + 1e-4
    again = generate(opened(folder), [8], 20, seed=5)[0].tokens
    assert again is not None and (again == documents[1].tokens).mean() > 0.9


def test_a_model_of_no_language_writes_its_own_text(tiny: Callable[..., Path]) -> None:
    model = opened(tiny("llama"))
    first, second = (default_corpora(model, sequences=4, length=16) for _ in range(2))
    calibration, held_out = first.calibration, first.held_out
    assert "4 texts written by the model itself, 16 tokens each" in calibration.description
    assert "Python sources are not its kind of text" in calibration.description
    digests = {d.digest() for d in calibration.documents}
    assert len(calibration.documents) == len(held_out.documents) == 4
    assert not digests & {d.digest() for d in held_out.documents}
    assert digests == {d.digest() for d in second.calibration.documents}


def test_sources_are_used_where_they_are_plausible(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "PLAUSIBLE_SHARE", 10.0)
    chosen = default_corpora(opened(tiny("llama")), sequences=4, length=16)
    names = [d.name for d in chosen.calibration.documents]
    assert names[:2] == ["text 0 by the model", "text 1 by the model"] and names[2].endswith(".py")
    assert "2 texts written by the model itself" in chosen.calibration.description
    assert "nats per token" in chosen.calibration.description
    assert all(d.name.endswith(".py") for d in chosen.held_out.documents)
    assert not set(names) & {d.name for d in chosen.held_out.documents}


def test_encoders_get_prose(tiny: Callable[..., Path]) -> None:
    chosen = default_corpora(opened(tiny("bert")))
    assert "docstrings" in chosen.calibration.description and len(chosen.held_out.documents) > 20
    texts = [{d.text for d in c.documents} for c in (chosen.calibration, chosen.held_out)]
    assert not texts[0] & texts[1] and all(len(t or "") >= 200 for t in texts[0])


def test_no_text_at_all(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.measure.generate.WHOLE_MODEL_BYTES", 10)
    with pytest.raises(UserError, match="pass text with --data"):
        default_corpora(opened(tiny("llama")))


def test_without_tokenizer_the_model_still_writes(tiny: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny("llama"), tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    chosen = default_corpora(opened(folder), sequences=2, length=12)
    assert "no tokenizer" in chosen.calibration.description
    first = chosen.calibration.documents[0].tokens
    assert first is not None and first[0] == 256 and np.ptp(first) > 0
