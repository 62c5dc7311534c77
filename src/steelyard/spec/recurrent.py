"""What configs of state spaces leave to be worked out."""

from __future__ import annotations

from steelyard.spec.settings import Settings


def time_step_rank(settings: Settings, key: str) -> int:
    """Return the rank of the map to the time steps: a sixteenth of the hidden size, rounded up, for "auto".

    Raises:
        UserError: if it is neither "auto" nor a positive whole number.
    """
    return -(-settings.size("hidden_size") // 16) if settings.get(key) == "auto" else settings.size(key)
