"""Log lines: readable on a terminal, one JSON object a line (Cloud Logging's fields) otherwise. Secrets are masked."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
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
        return masked(json.dumps(line, ensure_ascii=False))


class Readable(logging.Formatter):
    """Time, level, event, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%SZ")
        pairs = (f"{key}={_shown(value)}" for key, value in getattr(record, "fields", {}).items())
        line = " ".join([at, f"{record.levelname:<7}", record.getMessage(), *pairs])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return masked(line)


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
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c in '"=' for c in text) else text
