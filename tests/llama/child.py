"""Runs llama.cpp in an environment of its own: one request in, one file of arrays out."""

from __future__ import annotations

import json
import sys
from typing import Any

import llama_cpp
import numpy as np


def opened(request: dict[str, Any], **settings: Any) -> Any:
    """Return a model; the cache of keys and values is float32, so that nothing else is rounded."""
    return llama_cpp.Llama(request["model"], verbose=False, n_threads=1, n_threads_batch=1, **settings)


def logits(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the logits [windows, tokens, vocabulary] of windows of tokens."""
    windows = request["windows"]
    context = max(map(len, windows))
    model = opened(request, n_ctx=context, n_batch=context, logits_all=True, type_k=0, type_v=0, flash_attn=False)
    found = []
    for window in windows:
        model.reset()
        model.eval(window)
        found.append(np.array(model.scores[: len(window)], np.float32))
    return {"logits": np.stack(found)}


def greedy(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the likeliest tokens after a prompt."""
    model = opened(request, n_ctx=512, type_k=0, type_v=0, flash_attn=False)
    tokens = []
    for token in model.generate(request["prompt"], temp=0.0, repeat_penalty=1.0):
        tokens.append(token)
        if len(tokens) == request["count"]:
            break
    return {"tokens": np.array(tokens)}


def tokens(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the tokens of texts, one array each."""
    model = opened(request, vocab_only=True)
    settings = {"add_bos": request.get("begin", False), "special": True}
    return {str(i): np.array(model.tokenize(text.encode(), **settings)) for i, text in enumerate(request["texts"])}


def embeddings(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the embedding of each text, not normalized."""
    model = opened(request, n_ctx=128, embedding=True, flash_attn=False)
    return {"embeddings": np.array([model.embed(text, normalize=False) for text in request["texts"]])}


def quantize(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Write files as llama.cpp's own quantizer makes them, one of each kind that `out` names."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    for out, kind in request["out"].items():
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype, settings.nthread = kind, 1
        if llama_cpp.llama_model_quantize(request["model"].encode(), out.encode(), settings):
            sys.exit(f"llama.cpp refused to write {out}")
    return {}


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    do = {f.__name__: f for f in (logits, greedy, tokens, embeddings, quantize)}
    np.savez(sys.argv[1], **do[asked["do"]](asked))
