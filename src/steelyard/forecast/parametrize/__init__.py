"""How every tensor of a model is to be initialised and trained so that hyperparameters of a smaller one hold.

A rule is one file in `steelyard.forecast.parametrize.rules`. `make` applies it to a model and its base: one row for
every tensor. torch is imported only where a model is touched (`apply`) or trained (`check`).
"""

from __future__ import annotations

from steelyard.forecast.parametrize.parametrization import Parametrization, make
from steelyard.forecast.parametrize.rule import Powers, Rule
from steelyard.forecast.parametrize.rules import get, rules
from steelyard.forecast.parametrize.table import Row

__all__ = ["Parametrization", "Powers", "Row", "Rule", "get", "make", "rules"]
