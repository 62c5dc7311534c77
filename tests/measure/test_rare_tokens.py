from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.measure.collect import _sources_of
from steelyard.measure.rare_tokens import information_shares
from steelyard.measure.texts import Corpus, Document
from steelyard.measure.windows import cut

_VOCABULARY = 30
_TEXTS = st.lists(st.lists(st.integers(0, _VOCABULARY - 1), min_size=1, max_size=40), min_size=2, max_size=12)


def counted(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Occurrences of each token, and texts it occurs in."""
    counts = np.bincount(np.concatenate(texts), minlength=_VOCABULARY)
    return counts, sum((np.bincount(sorted(set(text)), minlength=_VOCABULARY) for text in texts), 0 * counts)


@settings(deadline=None)
@given(_TEXTS)
def test_unseen_tokens_get_what_a_text_left_out_has_of_its_own(texts: list[list[int]]) -> None:
    counts, sources = counted(texts)
    shares = information_shares(counts, sources, counts.astype(np.float64))
    # Occurrences that no other text has, text by text; where there are none it is taken that there is one.
    own = sum(
        sum(1 for token in text if not any(token in other for other in texts[:i] + texts[i + 1 :]))
        for i, text in enumerate(texts)
    )
    assert np.isclose(shares.sum(), 1, atol=1e-5)
    assert (shares >= 0).all() and (shares[counts > 0] > 0).sum() >= (sources > 5).sum()
    if (counts == 0).any():
        mass = [float(counts[sources == r].sum()) for r in range(6)]
        most = sources.max()
        rest = sum(
            (max(mass[r + 1], 1.0) if r < most else mass[r]) for r in range(1, 5) if (sources == r).any()
        ) + float(counts[sources > 4].sum())
        # All uses inform alike here, so that shares of information are shares of occurrences.
        assert np.isclose(shares[counts == 0].sum(), max(own, 1) / (max(own, 1) + rest), rtol=1e-5)
        assert np.ptp(shares[counts == 0]) == 0


def test_tokens_of_many_sources_keep_their_counts() -> None:
    counts, sources = np.array([400, 100, 50, 0]), np.array([20, 20, 10, 0])
    shares = information_shares(counts, sources, np.array([400.0, 300.0, 50.0, 0.0]))
    per_use = (np.array([400.0, 300.0, 50.0]) + 4 * 750 / 550) / (counts[:3] + 4)
    assert np.allclose(shares[:3] / shares[0], counts[:3] * per_use / (400 * per_use[0]), rtol=1e-5)
    assert 0 < shares[3] < 0.01


def test_unseen_tokens_inform_as_those_of_one_source_do() -> None:
    counts, sources = np.array([100, 10, 0]), np.array([20, 1, 0])
    dull = information_shares(counts, sources, np.array([100.0, 10.0, 0.0]))
    telling = information_shares(counts, sources, np.array([100.0, 50.0, 0.0]))
    frequency, use = 10 / 100, (50.0 + 4 * 5) / 14
    assert np.isclose(dull[2] / dull[0], frequency, rtol=1e-5)
    assert np.isclose(telling[2] / telling[0], frequency * use, rtol=1e-5)


def test_nothing_known_is_shared_evenly() -> None:
    none = np.zeros(4, np.int64)
    assert information_shares(none, none, none.astype(float)).tolist() == [0.25] * 4


def test_documents_of_one_file_are_one_source() -> None:
    documents = tuple(
        Document(f"{file}:{line}", tokens=np.arange(8), source=file) for file in "ab" for line in range(3)
    )
    data = cut(Corpus(documents, "drawn"), None, "causal", 8, sequences=6, length=8)
    assert sorted(data.sources) == ["a"] * 3 + ["b"] * 3
    assert len(set(data.names)) == 6


def test_windows_are_the_sources_of_one_long_text() -> None:
    one = cut(Corpus((Document("a", tokens=np.arange(32) % 8),), "one"), None, "causal", 8, sequences=9, length=8)
    assert len(one.windows) > 1
    assert _sources_of(one, 9).tolist() == [sum(t in w.inputs for w in one.windows) for t in range(9)]
    many = tuple(Document(f"d{i}", tokens=np.array([i % 3, 3, 3, 3, 3])) for i in range(9))
    data = cut(Corpus(many, "nine"), None, "causal", 8, sequences=9, length=8)
    assert _sources_of(data, 9)[:4].tolist() == [3, 3, 3, 9]
