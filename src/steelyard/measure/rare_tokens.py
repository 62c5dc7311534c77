"""How much each row of an embedding matters for texts that have not been seen."""

from __future__ import annotations

import numpy as np

# Tokens of no more sources than this are too rare for their own counts to be believed.
_RARE = 4

# Uses at the mean of its class that every token's own information is averaged with.
_PRIOR_USES = 4


def information_shares(counts: np.ndarray, sources: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return each token's expected share of the Fisher information of other texts of the same kind.

    A share is the token's expected frequency times its information per use. Texts repeat their own words, and
    those of one file each other's, so what is expected of a new text is learned by leaving out one source at a
    time: a token of r + 1 sources is then one of r sources that turned up, as often as it does in the one left out.
    So the tokens of r sources together get the occurrences of those of r + 1 (Good and Turing's estimate, with
    sources for occurrences), and unseen tokens the occurrences and the information per use of those in one only.

    Args:
        counts: [vocabulary] occurrences of each token.
        sources: [vocabulary] texts, or files of texts, it occurs in.
        information: [vocabulary] its Fisher information, summed over its uses.

    Returns:
        float32 [vocabulary], sum 1.
    """
    seen, known = counts.astype(np.float64), information.astype(np.float64)
    classes = _RARE + 3  # of exactly 0, 1, ..., _RARE + 1 sources, and of more
    group = np.minimum(sources, classes - 1)
    size, mass, learnt = (np.bincount(group, part, classes) for part in (np.ones(len(seen)), seen, known))
    frequency, per_use = seen.copy(), np.empty(len(seen))
    for r in range(classes):
        those = group == r
        # A token of every source cannot be in one more.
        expected = max(mass[r + 1], 1.0) if r <= _RARE and r < sources.max() else mass[r]
        if those.any():
            frequency[those] = max(expected, 1.0) / size[r] if r == 0 else seen[those] * (expected / mass[r])
        # Of unseen tokens nothing is known but what those of one source are like.
        like = max(r, 1) if mass[max(r, 1)] > 0 else slice(None)
        use = learnt[like].sum() / max(mass[like].sum(), 1.0)
        per_use[those] = (known[those] + _PRIOR_USES * use) / (seen[those] + _PRIOR_USES)
    shares = frequency * per_use
    total = shares.sum()
    return np.asarray(shares / total if total > 0 else frequency / frequency.sum(), dtype=np.float32)
