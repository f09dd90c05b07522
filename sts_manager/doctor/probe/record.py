"""What a probe makes, remembered before it is made: a file on this machine, and a marker in the destination bucket.

Every name follows from the probe's id, so whoever knows the id can remove everything, whenever the probe died.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path

from sts_manager.domain.errors import BadInput
from sts_manager.domain.names import JOB_NAME_STEM, JobName

ROOT = ".sts-manager/probe-"
"""How every object begins that a probe writes, in the destination and (`--probe-source-write`) in the source."""
MARKER = "marker.json"
STALE_AFTER = timedelta(hours=1)
"""A marker of another machine's probe is taken for left behind after this long: no probe lasts longer."""
NEVER_RUN = ("no-destination", "no-source", "no-role")
JOB_ROLES = (*NEVER_RUN, "transfer", "manifest", "folder", "list", "list-md5")
_ID = re.compile(r"[0-9]{8}t[0-9]{6}-[0-9a-f]{6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRecord:
    """One probe, and where it makes things. An empty place means that nothing is made there.

    source       s3://bucket/path/ where it may write objects
    dataset      project.dataset in BigQuery, where it makes a table
    monitoring   the project of its metric and its alert policies
    transfers    whether it makes transfer jobs
    folders      whether the destination has a hierarchical namespace, where folders stay behind
    """

    id: str
    began_at: str
    project: str
    destination: str
    source: str = ""
    dataset: str = ""
    monitoring: str = ""
    transfers: bool = True
    folders: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(value := getattr(self, field.name), bool if field.type == "bool" else str):
                raise ValueError(f"{field.name} of a probe's record is {value!r}")
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} is no id of a probe")
        if datetime.fromisoformat(self.began_at).tzinfo is None:
            raise ValueError(f"{self.began_at!r} has no time zone")

    @property
    def source_path(self) -> str:
        """Under which its objects in the source are, in full; empty where it writes none there."""
        return f"{self.source.rstrip('/')}/{self.path}" if self.source else ""

    @property
    def table(self) -> str:
        """Its scratch table, in full; empty where it makes none. What it drops is never more than a table of this name."""
        return f"{self.dataset}.sts_manager_probe_{self.id.replace('-', '_')}" if self.dataset else ""

    @property
    def path(self) -> str:
        """Under which its objects are."""
        return f"{ROOT}{self.id}/"

    def job(self, role: str) -> JobName:
        """The transfer job of one of its parts: no other program's, and never a migration's."""
        return JobName(f"{JOB_NAME_STEM}probe-{self.id}-{JOB_ROLES[JOB_ROLES.index(role)]}")

    @property
    def jobs(self) -> tuple[JobName, ...]:
        return tuple(self.job(role) for role in JOB_ROLES)

    def stale(self, now: datetime) -> bool:
        """Whether nobody can be at it any more. A time that is still to come was written by another clock: then it is young."""
        return now - datetime.fromisoformat(self.began_at) >= STALE_AFTER

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def make_id(now: datetime, chance: str) -> str:
    """An id that is legal in all names: of objects, transfer jobs, tables, metrics and labels. chance: six hexadecimal digits."""
    return f"{now:%Y%m%dt%H%M%S}-{chance}"


def id_in(name: str) -> str | None:
    """The id in the name of an object or a common prefix of a listing; None for what is no probe's."""
    probe = name.removeprefix(ROOT).partition("/")[0] if name.startswith(ROOT) else ""
    return probe if _ID.fullmatch(probe) else None


def time_in(probe: str) -> datetime:
    """When the probe of an id began, by the clock of its machine."""
    return datetime.strptime(f"{probe[:15]}+0000", "%Y%m%dt%H%M%S%z")


def parse_record(text: str) -> ProbeRecord:
    """Raises ValueError for what is none."""
    try:
        return ProbeRecord(**json.loads(text))
    except TypeError as error:
        raise ValueError(f"this is no record of a probe: {error}") from error


class RecordFile:
    """The probes that this machine began and did not clear away. While it is open, no other process here probes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises BadInput when another process has it, or when it cannot be written."""
        lock = self._path.with_name(f"{self._path.name}.lock")
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadInput(f"the record of probes {self._path} cannot be written: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BadInput(f"another probe runs on this machine with {self._path}; wait for it, or stop it") from error
            yield
        finally:
            os.close(handle)

    def records(self) -> list[ProbeRecord]:
        """Raises BadInput for a file that somebody else wrote."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BadInput(f"the record of probes {self._path} cannot be read: {error.strerror}") from error
        try:
            return [parse_record(line) for line in text.splitlines() if line]
        except ValueError as error:
            hint = "move it away; what earlier probes left in the destination is found there by its names"
            raise BadInput(f"{self._path} is no record of probes: {error}; {hint}") from error

    def add(self, record: ProbeRecord) -> None:
        """On the disk when this returns: from then on, things may be made."""
        self._write([*self.records(), record])

    def remove(self, record: ProbeRecord) -> None:
        self._write([known for known in self.records() if known.id != record.id])

    def _write(self, records: list[ProbeRecord]) -> None:
        if not records:
            with suppress(FileNotFoundError):
                self._path.unlink()
            return
        try:
            write_private(self._path, "".join(f"{record.text()}\n" for record in records))
        except OSError as error:
            raise BadInput(f"the record of probes {self._path} cannot be written: {error.strerror}") from error


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only this user reads, whole or not at all. Raises OSError."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
