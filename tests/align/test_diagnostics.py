"""Agreement of singular directions, against the sum written out, and the verb that prints it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from steelyard.cli.align import command
from steelyard.edits.align.diagnostics import DOMINANT, directions
from steelyard.edits.align.maps import identity, mapped
from steelyard.edits.align.opened import open_two
from steelyard.edits.align.weights import first_pass, match_nearest, match_weights
from steelyard.errors import UserError

from .networks import FAMILIES, draw, family, write


def test_agreement_is_the_sum_over_pairs_of_directions(tmp_path: Path) -> None:
    folders = [family(tmp_path / str(seed), "gpt2", seed, n_layer=1) for seed in (1, 2)]
    with open_two(*folders, same_size=True) as two:
        maps = match_nearest(two.symmetry, two.read_first, two.read_second).maps
        found = {"plain": directions(two, identity(two.symmetry)), "matched": directions(two, maps)}
        tensors = [
            (two.read_first(name), mapped(two.symmetry, order, name, two.read_second(name)))
            for order in (identity(two.symmetry), maps)
            for name in two.symmetry.dims
            if two.first.spec.tensors[name].kind == "linear"
        ]
    half = len(tensors) // 2
    for kind, pairs in (("plain", tensors[:half]), ("matched", tensors[half:])):
        total, strong, count, strong_count = 0.0, 0.0, 0, 0
        for a, b in pairs:
            (u, s, v), (u2, s2, v2) = np.linalg.svd(a, full_matrices=False), np.linalg.svd(b, full_matrices=False)
            squared = (s**2).sum() + (s2**2).sum()
            for i in range(len(s)):
                for j in range(len(s2)):
                    agree = (u[:, i] @ u2[:, j]) * (v[i] @ v2[j])
                    squared -= 2 * s[i] * s2[j] * agree
                    total += agree
                    strong += agree * (s[i] >= DOMINANT * s[0]) * (s2[j] >= DOMINANT * s2[0])
            assert squared == pytest.approx(((a - b) ** 2).sum(), rel=1e-4)
            count += len(s)
            strong_count += min((s >= DOMINANT * s[0]).sum(), (s2 >= DOMINANT * s2[0]).sum())
        assert found[kind].all == pytest.approx(total / count, abs=1e-5)
        assert found[kind].dominant == pytest.approx(strong / strong_count, abs=1e-5)
    assert found["matched"].dominant > found["plain"].dominant


def test_the_nearer_of_two_starts_is_kept(tmp_path: Path) -> None:
    folders = [family(tmp_path / str(seed), "llama", seed) for seed in (1, 2)]
    with open_two(*folders, same_size=True) as two:
        readers = two.symmetry, two.read_first, two.read_second
        starts = [match_weights(*readers, start=start).after for start in (None, first_pass(*readers))]
        assert match_nearest(*readers).after == min(starts)


def test_the_verb_tells_what_it_did(tmp_path: Path) -> None:
    folders = [str(family(tmp_path / str(seed), "llama", seed)) for seed in (1, 2)]
    run = CliRunner().invoke
    told = run(command, [folders[1], "--to", folders[0], "--out", str(tmp_path / "a")])
    assert told.exit_code == 0 and "same function: logits differ by" in told.output and "stream" in told.output
    again = run(command, [folders[1], "--to", folders[0], "--out", str(tmp_path / "b"), "--json"])
    data = json.loads(again.output)
    assert data["distance"]["after"] < data["distance"]["before"] and data["same_function_in_float64"] < 1e-12
    for file in ("model.safetensors", "config.json", "alignment.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    taken = run(command, [folders[1], "--to", folders[0], "--out", str(tmp_path / "b")])
    assert isinstance(taken.exception, UserError) and "exists" in str(taken.exception)


def test_what_is_written_in_bfloat16_stays_so_to_the_bit(tmp_path: Path) -> None:
    import ml_dtypes

    config = {**FAMILIES["qwen3"], "dtype": "bfloat16"}
    folders = [
        write(
            tmp_path / str(seed), config, {k: v.astype(ml_dtypes.bfloat16) for k, v in draw(config, seed).items()}
        )
        for seed in (1, 2)
    ]
    with open_two(*folders, same_size=True) as two:
        maps = match_nearest(two.symmetry, two.read_first, two.read_second).maps
        expected = {n: mapped(two.symmetry, maps, n, two.second.checkpoint.tensor(n)) for n in two.symmetry.dims}
    CliRunner().invoke(command, [str(folders[1]), "--to", str(folders[0]), "--out", str(tmp_path / "out")])
    written = load_file(tmp_path / "out/model.safetensors")
    assert all(np.array_equal(written[n].view(np.uint16), t.view(np.uint16)) for n, t in expected.items())
