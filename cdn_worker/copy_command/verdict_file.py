"""One line, or row, for each key: what became of it. NDJSON or Parquet, as the file's name says.

It is written as `NAME.partial` and takes its name when the run is complete: a file by that name has every key.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Protocol

from cdn_worker.domain.errors import BadInput, CdnWorkerError
from cdn_worker.domain.verdict import KeyVerdict

COLUMNS = ("key", "size", "etag", "generation", "crc32c", "verified", "verdict", "error", "details")
ROWS_A_GROUP = 50_000


class VerdictsLost(CdnWorkerError):
    """The file cannot be written any more; the objects that were copied are there all the same."""


class VerdictFile(Protocol):
    """Where verdicts go."""

    def add(self, verdicts: list[KeyVerdict]) -> None:
        """Raises VerdictsLost."""
        ...

    def close(self, *, complete: bool) -> Path:
        """The file as it is called now. Raises VerdictsLost."""
        ...


def row(verdict: KeyVerdict) -> dict[str, Any]:
    """A verdict as it is written: crc32c in base64, as Cloud Storage shows it; None where there is nothing."""
    return {
        "key": verdict.key,
        "size": verdict.size,
        "etag": verdict.etag,
        "generation": verdict.generation or None,
        "crc32c": base64.b64encode(verdict.crc32c).decode() if verdict.crc32c else None,
        "verified": verdict.verified.value or None,
        "verdict": verdict.verdict.value,
        "error": verdict.error or None,
        "details": verdict.details or None,
    }


def open_verdicts(path: Path) -> VerdictFile:
    """A new file. Raises BadInput when it cannot be made, or its kind is unknown."""
    if path.is_dir():
        raise BadInput(f"--verdicts {path} is a folder: name a file in it")
    if path.suffix not in (".ndjson", ".jsonl", ".parquet"):
        raise BadInput(f"--verdicts {path}: its name ends with .ndjson (or .jsonl) or .parquet")
    try:
        return _Parquet(path) if path.suffix == ".parquet" else _Ndjson(path)
    except OSError as error:
        raise BadInput(f"--verdicts {path} cannot be written: {error.strerror}") from error


def partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


class _Ndjson:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = partial(path).open("w", encoding="utf-8", errors="backslashreplace")

    def add(self, verdicts: list[KeyVerdict]) -> None:
        text = "".join(json.dumps(row(verdict), ensure_ascii=False) + "\n" for verdict in verdicts)
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise _lost(self._path, error) from error

    def close(self, *, complete: bool) -> Path:
        try:
            self._file.close()
        except OSError as error:
            raise _lost(self._path, error) from error
        return _renamed(self._path, complete=complete)


class _Parquet:
    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - large, and only for those who want it
            import pyarrow.parquet as pq  # noqa: PLC0415
        except ImportError as error:
            raise BadInput(
                f"--verdicts {path}: Parquet needs pyarrow: pip install 'sts-manager[parquet]', or use .ndjson"
            ) from error
        self._path, self._pa = path, pa
        numbers = {"size", "generation"}
        self._schema = pa.schema([(name, pa.int64() if name in numbers else pa.string()) for name in COLUMNS])
        partial(path).touch()
        self._writer = pq.ParquetWriter(partial(path), self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, verdicts: list[KeyVerdict]) -> None:
        self._rows += [row(verdict) for verdict in verdicts]
        if len(self._rows) >= ROWS_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        try:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        except OSError as error:
            raise _lost(self._path, error) from error
        self._rows.clear()

    def close(self, *, complete: bool) -> Path:
        if self._rows:
            self._flush()
        try:
            self._writer.close()
        except OSError as error:
            raise _lost(self._path, error) from error
        return _renamed(self._path, complete=complete)


def _renamed(path: Path, *, complete: bool) -> Path:
    if not complete:
        return partial(path)
    try:
        partial(path).replace(path)
    except OSError as error:
        raise _lost(path, error) from error
    return path


def _lost(path: Path, error: OSError) -> VerdictsLost:
    return VerdictsLost(
        f"the verdict file {path} cannot be written: {error.strerror}. What was copied is at the sink; "
        "make room, or name another file, and run the same command again: what is there is not copied again"
    )
