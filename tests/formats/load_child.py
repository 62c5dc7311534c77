"""Loads folders with plain transformers where steelyard cannot be imported; run as a program by the tests.

    python load_child.py JOBS.json OUT.json

A job is {"folder", "class", "plain": a folder of the same weights as plain numbers}. What comes out for each: keys
missing, unexpected and mismatched, names of the weights that differ from the plain folder's, the largest difference
of the outputs, or the error.
"""

from __future__ import annotations

import json
import sys

sys.modules["steelyard"] = None  # type: ignore[assignment]


def run(job: dict[str, str]) -> dict[str, object]:
    import torch
    import transformers

    kind = getattr(transformers, job["class"])
    try:
        model, info = kind.from_pretrained(job["folder"], output_loading_info=True)
        ids = torch.arange(3, 43).view(2, 20)
        with torch.no_grad():
            output = model(input_ids=ids)[0]
            plain = kind.from_pretrained(job["plain"])
            expected = plain(input_ids=ids)[0]
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    state = model.state_dict()
    differing = [
        name
        for name, tensor in plain.state_dict().items()
        if name not in state or state[name].dtype != tensor.dtype or not torch.equal(state[name], tensor)
    ]
    return {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(str(key) for key in info["mismatched_keys"]),
        "differing": differing,
        "difference": float((output.float() - expected.float()).abs().max()),
        "dtype": str(output.dtype),
    }


def main() -> None:
    import torch

    torch.set_num_threads(1)
    jobs_file, out = sys.argv[1:]
    with open(jobs_file) as file:
        jobs = json.load(file)
    results = {name: run(job) for name, job in jobs.items()}
    with open(out, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
