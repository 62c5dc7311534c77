"""CMA-ES in the unit cube: an evolution strategy that learns the shape of what it climbs down."""

from __future__ import annotations

import math

import numpy as np

from steelyard.seeds import generator


class Evolution:
    """Asks for points and is told their scores, the lower the better.

    Every generation's draws depend on the seed and its number alone, so that a search that is told the same scores
    asks for the same points. Points outside of the cube are moved to its surface, and count as what they became.

    Args:
        start: the first mean, float64 [coordinates].
        spread: the first standard deviation in every coordinate.
        seed: of the draws.

    Source: Hansen 2016, arXiv 1604.00772, figure 6 with the default parameters of table 1, positive weights only.
    """

    def __init__(self, start: np.ndarray, spread: float, seed: int) -> None:
        count = len(start)
        self._mean, self._sigma, self._seed = start.astype(np.float64).copy(), spread, seed
        self.population = 4 + int(3 * math.log(count)) if count > 1 else 4
        parents = self.population // 2
        raw = math.log((self.population + 1) / 2) - np.log(np.arange(1, parents + 1))
        self._weights = raw / raw.sum()
        effective = 1 / float((self._weights**2).sum())
        self._effective = effective
        self._rate_sigma = (effective + 2) / (count + effective + 5)
        self._damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (count + 1)) - 1) + self._rate_sigma
        self._rate_path = (4 + effective / count) / (count + 4 + 2 * effective / count)
        self._rate_one = 2 / ((count + 1.3) ** 2 + effective)
        self._rate_many = min(
            1 - self._rate_one, 2 * (effective - 2 + 1 / effective) / ((count + 2) ** 2 + effective)
        )
        self._expected = math.sqrt(count) * (1 - 1 / (4 * count) + 1 / (21 * count**2))
        self._covariance = np.eye(count)
        self._path_sigma, self._path = np.zeros(count), np.zeros(count)
        self._generation = 0

    def ask(self) -> np.ndarray:
        """Return the points of the next generation, float64 [population, coordinates]."""
        draw = generator(self._seed, f"generation {self._generation}")
        values, axes = np.linalg.eigh(self._covariance)
        steps = draw.standard_normal((self.population, len(self._mean))) * np.sqrt(np.maximum(values, 1e-20))
        points: np.ndarray = np.clip(self._mean + self._sigma * steps @ axes.T, 0.0, 1.0)
        return points

    def tell(self, points: np.ndarray, scores: np.ndarray) -> None:
        """Learn from a generation: its points and their scores [population]."""
        count = len(self._mean)
        order = np.argsort(scores, kind="stable")[: len(self._weights)]
        steps = (points[order] - self._mean) / self._sigma
        step = self._weights @ steps
        self._mean = self._mean + self._sigma * step
        values, axes = np.linalg.eigh(self._covariance)
        white = axes @ ((axes.T @ step) / np.sqrt(np.maximum(values, 1e-20)))
        rate = self._rate_sigma
        self._path_sigma = (1 - rate) * self._path_sigma + math.sqrt(rate * (2 - rate) * self._effective) * white
        self._generation += 1
        length = float(np.linalg.norm(self._path_sigma))
        settled = length / math.sqrt(1 - (1 - rate) ** (2 * self._generation))
        moving = settled < (1.4 + 2 / (count + 1)) * self._expected
        rate = self._rate_path
        self._path = (1 - rate) * self._path
        if moving:
            self._path += math.sqrt(rate * (2 - rate) * self._effective) * step
        kept = 1 - self._rate_one - self._rate_many + (0 if moving else self._rate_one * rate * (2 - rate))
        self._covariance = (
            kept * self._covariance
            + self._rate_one * np.outer(self._path, self._path)
            + self._rate_many * (steps.T * self._weights) @ steps
        )
        self._sigma *= math.exp(min(1.0, self._rate_sigma / self._damping * (length / self._expected - 1)))
