"""For every token of the result: which rows of which models its embedding comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.edits.merge.tokenizer.policy import Policy, TokenSource
from steelyard.errors import UserError

Row = tuple[int, int]
"""Number of a model, row of its table."""


@dataclass(frozen=True)
class TokenRows:
    """Where one model takes the rows of its new table from.

    Attributes:
        own: for every row of the new table the model's own row; -1 where it comes from elsewhere.
        others: for those rows the rows whose average it is; an empty tuple stands for zeros.
        filled: rows above every token, which get the average of all others.
    """

    own: np.ndarray
    others: Mapping[int, tuple[Row, ...]]
    filled: tuple[int, ...]


def assign_rows(
    tokens: Mapping[str, int],
    models: Sequence[Mapping[str, int]],
    labels: Sequence[str],
    base: int | None,
    policy: Policy,
    sources: Mapping[str, int | None],
) -> list[TokenRows]:
    """Return where every model takes its rows from.

    A model keeps its own rows. A token it lacks has the base's row if that has the token, else that of the only
    model that has it, else the average of those that have it, else zeros, unless the policy says otherwise.

    Args:
        tokens: number of every token in the result.
        models: for every model the row of every token it has.
        labels: of the models, for messages.
        base: number of the base model.
        policy: as declared.
        sources: for every token with a declared source the number of the model; None for zeros.

    Raises:
        UserError: if a declared source does not have the token.
    """
    count = max(tokens.values(), default=-1) + 1
    size = -(-count // policy.multiple) * policy.multiple
    taken = set(tokens.values())
    filled = tuple(row for row in range(size) if row not in taken)
    given = {token: _given(token, models, labels, policy.tokens[token], sources[token]) for token in sources}
    found = []
    for model in models:
        own = np.full(size, -1, np.int64)
        others: dict[int, tuple[Row, ...]] = {}
        for token, row in tokens.items():
            forced = token in given and policy.tokens[token].force
            if token in model and not forced:
                own[row] = model[token]
            else:
                others[row] = given[token] if token in given else _usual(token, models, base)
        found.append(TokenRows(own, others, filled))
    return found


def _usual(token: str, models: Sequence[Mapping[str, int]], base: int | None) -> tuple[Row, ...]:
    if base is not None and token in models[base]:
        return ((base, models[base][token]),)
    return tuple((number, model[token]) for number, model in enumerate(models) if token in model)


def _given(
    token: str,
    models: Sequence[Mapping[str, int]],
    labels: Sequence[str],
    source: TokenSource,
    number: int | None,
) -> tuple[Row, ...]:
    if number is None:
        return ()
    if source.number is not None:
        return ((number, source.number),)
    name = source.token or token
    if name not in models[number]:
        raise UserError(f"tokenizer.tokens.{token}: {labels[number]} has no token {name!r}; name another source")
    return ((number, models[number][name]),)
