"""How far large objects got, one line each time, for a run that comes after a kill.

The address of an upload session lets whoever has it write that one object, so the file is readable by its owner only, and is
removed when a run is complete. A line that was cut by the kill is ignored: then a little more is sent again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TextIO

from cdn_worker.copying.steps import Resume, Task
from cdn_worker.domain.errors import BadInput


class Journal:
    """Appends; `before` is what an earlier run left, by key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.before: dict[str, tuple[str, int, Resume]] = _read(path)
        self._file: TextIO | None = None

    def resume(self, key: str, etag: str, size: int) -> Resume | None:
        """Where to go on, if it is the same object still."""
        found = self.before.get(key)
        return found[2] if found is not None and found[:2] == (etag, size) else None

    def note(self, task: Task, resume: Resume) -> None:
        """Raises OSError."""
        if self._file is None:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(handle, "a", encoding="utf-8")
        line = {
            "key": task.key,
            "etag": task.etag,
            "size": task.size,
            "session": resume.session,
            "offset": resume.offset,
            "crc": resume.crc,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self, *, complete: bool) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if complete:
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, tuple[str, int, Resume]]:
    found: dict[str, tuple[str, int, Resume]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for text in lines:
                try:
                    line = json.loads(text)
                    resume = Resume(str(line["session"]), int(line["offset"]), int(line["crc"]))
                    found[line["key"]] = (line["etag"], line["size"], resume)
                except (ValueError, KeyError, TypeError):
                    continue  # cut by a kill
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"the journal {path} of an earlier run cannot be read: {error.strerror}") from error
    return found
