"""Log lines: readable on a terminal, one JSON object a line (Cloud Logging's fields) otherwise. Secrets are masked."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_SECRET = re.compile(
    r"(?i)((?:secret[_-]?(?:access[_-]?)?key|x-amz-signature|x-amz-security-token|signature|authorization|password)"
    r"""\\?["']?\s*[:=]\s*\\?["']?)([^\s"',&\\]+)"""
)


def masked(text: str) -> str:
    """`text` without what looks like a secret: the last line of defence, for messages of other programs."""
    return _SECRET.sub(r"\1***", text)


_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, which a terminal obeys, and marks that turn the direction of writing or break the line."""


def visible(text: str, keep: str = "") -> str:
    """`text` with control characters as `\\x1b` or `\\u202e`: who names an object must not command a terminal.

    keep   control characters that are meant: the line breaks of a message of ours
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text)


def json_text(value: object, indent: int | None = None, default: Callable[[Any], str] | None = None) -> str:
    """A value as JSON in which every control character is an escape, which any reader undoes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=default)
    return _UNSEEN.sub(lambda found: "\n" if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


class JsonLines(logging.Formatter):
    """Cloud Logging's structured fields: severity, message, timestamp; then the event's own."""

    def format(self, record: logging.LogRecord) -> str:
        # The line's own keys come last: a field can never hide the event's name.
        line: dict[str, Any] = {key: _plain(value) for key, value in getattr(record, "fields", {}).items()}
        line |= {
            "severity": record.levelname,
            "message": record.getMessage(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "logger": record.name,
        }
        if record.exc_info:
            line["stack_trace"] = self.formatException(record.exc_info)
        return masked(json_text(line))


class Readable(logging.Formatter):
    """Time, level, event, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%SZ")
        pairs = (f"{key}={_shown(value)}" for key, value in getattr(record, "fields", {}).items())
        line = " ".join([at, f"{record.levelname:<7}", record.getMessage(), *pairs])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return masked(visible(line, keep="\n"))


def configure(program: str, stream: TextIO | None = None) -> str | None:
    """Send a program's log to stderr at `LOGLEVEL` (default INFO). Returns a complaint about an unknown level.

    program   the package whose loggers these are
    """
    out = sys.stderr if stream is None else stream
    wanted = os.environ.get("LOGLEVEL", "INFO").upper()
    level = wanted if wanted in LEVELS else "INFO"
    handler = logging.StreamHandler(out)
    handler.setFormatter(Readable() if out.isatty() else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(program).setLevel(level)
    if wanted in LEVELS:
        return None
    return f"LOGLEVEL={wanted!r} is not a level; use one of {', '.join(LEVELS)} (INFO is used now)"


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _shown(value: object) -> str:
    text = visible(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c in '"=' for c in text) else text
