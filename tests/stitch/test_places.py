"""Where models are joined: the published enumeration, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steelyard.edits.stitch.places import bridges, named, stitches
from steelyard.errors import UserError
from steelyard.formats.native.composition import Composition, bridges_in_order, parse_joint


@pytest.mark.parametrize("depths", [(2, 4), (3, 7), (4, 7), (12, 24), (1, 5)])
def test_unpaired_models_are_stitched_as_published(depths: tuple[int, int]) -> None:
    first, second = depths
    places = torch.nn.functional.interpolate(torch.arange(first)[None, None].float(), second)
    nearest = places.flatten().long().tolist()
    expected = {(block + 1, other) for other, block in enumerate(nearest) if block < other}
    assert set(stitches(first, second)) == expected
    assert set(stitches(second, first)) == {(other + 1, done - 1) for done, other in expected}


@pytest.mark.parametrize("window", [1, 2, 3])
def test_paired_models_are_stitched_within_windows(window: int) -> None:
    depth = 5
    expected = {
        (i + 1, j)
        for i in range(depth)
        for j in range(depth)
        if any(start <= min(i, j) and max(i, j) < start + window for start in range(depth))
    }
    assert set(stitches(depth, depth, window)) == expected
    assert all(1 <= i <= depth and 0 <= j < depth for i, j in expected)


def test_bridges_are_spread_from_the_first_block_to_the_last() -> None:
    assert bridges(7, 4, 3) == ((1, 1), (4, 2), (7, 4))
    assert bridges(2, 5, 9) == ((1, 1), (2, 5))


@pytest.mark.parametrize("text", ["", "1", "1:", ":2", "a:b", "1:2:3", "-1:2"])
def test_what_is_no_joint(text: str) -> None:
    with pytest.raises(UserError, match="is no joint"):
        parse_joint(text)


def test_joints_that_the_models_do_not_have() -> None:
    assert named(["2:1", "1:0", "2:1"], (2, 3), entered_from=0) == ((1, 0), (2, 1))
    for joint in ("0:1", "3:1", "1:3"):
        with pytest.raises(UserError, match=f"no joint {joint}: the first number is 1 to 2, the second 0 to 2"):
            named([joint], (2, 3), entered_from=0)
    with pytest.raises(UserError, match="the second 1 to 3"):
        named(["1:0"], (2, 3), entered_from=1)


def test_bridges_that_cross_or_meet() -> None:
    assert bridges_in_order([(3, 2), (1, 2)]) == ((1, 2), (3, 2))
    with pytest.raises(UserError, match="1:3 and 2:1 cross"):
        bridges_in_order([(2, 1), (1, 3)])
    with pytest.raises(UserError, match="two bridges after block 1"):
        bridges_in_order([(1, 1), (1, 2)])


def test_a_damaged_composition(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sound composition \(KeyError: 'version'\)"):
        Composition.from_dict({})
    with pytest.raises(UserError, match="version 9 of composed models"):
        Composition.from_dict({"version": 9})
