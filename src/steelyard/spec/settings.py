"""A config with the defaults its architecture gives to absent keys, which remembers the keys it was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.errors import UserError


class Settings:
    """Read-only view of a model's config.

    A key absent from config.json has the default of the architecture's table, which is the one transformers
    gives it; a key that is present and null stays None.

    A key such as "text_config.hidden_size" is that of a config within the config.

    Attributes:
        used: keys asked for so far, in order, so that an error can name them.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._config = config
        self._defaults = defaults
        self.used: list[str] = []

    def fresh(self) -> Settings:
        """The same settings with nothing asked for yet."""
        return Settings(self._config, self._defaults)

    def get(self, key: str) -> Any:
        """Return the value of a key, or its default.

        Raises:
            UserError: if the config lacks it and the table has no default.
        """
        if key not in self.used:
            self.used.append(key)
        present, value = _find(self._config, key)
        if present:
            return value
        if key not in self._defaults:
            raise UserError(f"config.json lacks {key}, and architecture tables give it no default; add it")
        return self._defaults[key]

    def size(self, key: str, least: int = 1) -> int:
        """Return a whole number of at least one, or of at least `least`.

        Raises:
            UserError: if the value is anything else.
        """
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"config.json: {key} must be a whole number of at least {least}, got {value!r}")
        return value

    def size_or_none(self, key: str) -> int | None:
        """Return a positive whole number, or None where the config says null."""
        return None if self.get(key) is None else self.size(key)

    def flag(self, key: str) -> bool:
        """Return whether a switch is on; null counts as off."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"config.json: {key} must be true or false, got {value!r}")
        return bool(value)

    def described(self) -> str:
        """The keys asked for and their values: "hidden_size = 64, head_dim = null"."""
        words = {None: "null", True: "true", False: "false"}
        found = {key: _find(self._config, key) for key in self.used}
        values = {key: value if present else self._defaults.get(key) for key, (present, value) in found.items()}
        return ", ".join(
            f"{key} = {words[value] if value is None or isinstance(value, bool) else value}"
            + ("" if found[key][0] else " by default")
            for key, value in values.items()
        )


def _find(config: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Whether a config says something of a key, and what."""
    outer, _, inner = key.partition(".")
    if not inner or key in config:
        return key in config, config.get(key)
    within = config.get(outer)
    if within is not None and not isinstance(within, Mapping):
        raise UserError(f"config.json: {outer} must be a config of its own, got {within!r}")
    return _find(within or {}, inner)
