"""JSON from files of unknown origin: duplicate keys, NaN and broken text are refused."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from steelyard.errors import UserError


def parse_strict(text: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object that `text` holds.

    Args:
        text: UTF-8.
        where: names the text in messages, such as "model.safetensors: its header".

    Raises:
        UserError: if it is not one JSON object in UTF-8 with unique, well-formed keys.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            twice = next(key for key, count in Counter(key for key, _ in items).items() if count > 1)
            raise UserError(f"{where} names {twice[:200]!r} twice; download or save it again")
        return result

    def constant(name: str) -> Any:
        raise UserError(f"{where} holds {name}, which JSON does not allow; download or save it again")

    try:
        value = json.loads(text.decode(), object_pairs_hook=pairs, parse_constant=constant)
        # A lone surrogate parses but cannot be written back as UTF-8.
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise UserError(f"{where} is not UTF-8 text; download it again") from None
    except RecursionError:
        raise UserError(f"{where} nests too deep; download or save it again") from None
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object; download it again")
    return value
