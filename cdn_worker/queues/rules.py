"""What every queue holds to, whichever vendor keeps it."""

from __future__ import annotations

DELIVERIES_MAX = 10
"""In vain; then a message goes to the dead letters."""
BYTES_MAX = 1 << 40
"""Taken at once where nobody says how many: no bound."""


def explain_dead_letter(times: int) -> str:
    """Why a message is a dead letter."""
    return f"delivered {times} times, and never answered: whoever took it died or hung"


def explain_superseded(ours: int, theirs: int) -> str:
    """Why a board of an earlier epoch is refused."""
    return f"a daemon with a later lease (epoch {theirs}) has posted since this one (epoch {ours}) led"
