"""How far large objects got, one line each time, for a run that comes after a kill.

The address of an upload session lets whoever has it write that one object, so the file is readable by its owner only, and is
removed when a run is complete. A line that was cut by the kill is ignored: then a little more is sent again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TextIO

from cdn_worker.domain.errors import BadInput
from cdn_worker.object_copy.commands import Resume, Task

LINES_LEAST = 1000


class Journal:
    """Appends; what an earlier run left is read first. Written anew now and then, so that it holds little but what is needed.

    of   what is copied from where to where: a session writes to the place for which it was begun, whoever sends to it, so what
         another copy left is not for this one
    """

    def __init__(self, path: Path, of: str) -> None:
        self._path, self._of = path, of
        self._known: dict[str, tuple[str, int, Resume]] = _read(path, of)
        self._lines = len(self._known)
        self._file: TextIO | None = None

    def resume(self, key: str, etag: str, size: int) -> Resume | None:
        """Where to go on, if it is the same object still."""
        found = self._known.get(key)
        return found[2] if found is not None and found[:2] == (etag, size) else None

    def note(self, task: Task, resume: Resume) -> None:
        """Raises OSError."""
        self._known[task.key] = (task.etag, task.size, resume)
        if self._file is None:
            self._file = _opened(self._path, os.O_APPEND)
            self._file.write("\n")  # the last line of an earlier run may have been cut
        self._file.write(self._line(task.key, *self._known[task.key]))
        self._file.flush()
        self._lines += 1
        if self._lines > LINES_LEAST and self._lines > 4 * len(self._known):
            self._write_anew()

    def ended(self, key: str) -> None:
        """This object needs no going on any more."""
        self._known.pop(key, None)

    def close(self, *, complete: bool) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if complete:
            self._path.unlink(missing_ok=True)

    def _line(self, key: str, etag: str, size: int, resume: Resume) -> str:
        line = {"of": self._of, "key": key, "etag": etag, "size": size}
        line |= {"session": resume.session, "offset": resume.offset, "crc": resume.crc}
        return json.dumps(line) + "\n"

    def _write_anew(self) -> None:
        beside = self._path.with_name(f"{self._path.name}.new")
        with _opened(beside, os.O_TRUNC) as file:
            file.writelines(self._line(key, *value) for key, value in self._known.items())
        beside.replace(self._path)
        self._lines = len(self._known)
        if self._file is not None:
            self._file.close()
        self._file = _opened(self._path, os.O_APPEND)


def _opened(path: Path, how: int) -> TextIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w", encoding="utf-8")


def _read(path: Path, of: str) -> dict[str, tuple[str, int, Resume]]:
    found: dict[str, tuple[str, int, Resume]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for text in lines:
                try:
                    line = json.loads(text)
                    if line["of"] != of:
                        continue
                    resume = Resume(str(line["session"]), int(line["offset"]), int(line["crc"]))
                    found[line["key"]] = (line["etag"], line["size"], resume)
                except (ValueError, KeyError, TypeError):
                    continue  # cut by a kill
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"the journal {path} of an earlier run cannot be read: {error.strerror}") from error
    return found
