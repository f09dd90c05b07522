"""The typed errors of the data plane."""

from __future__ import annotations


class CdnWorkerError(Exception):
    """Anything this program raises on purpose; its text is fit for an operator to read."""


class BadInput(CdnWorkerError):
    """The user gave something this program refuses (exit code 2). The text names it, where it came from, and what is right."""
