"""Commands over all prefixes: what they change they read a page at a time, and meet once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sts_manager import admin
from sts_manager.domain.model import JobStatus, PrefixJob, changed
from sts_manager.domain.names import Prefix
from sts_manager.ports import Batch
from sts_manager.stores.sql.store import open_store
from tests.fakes.memory_store import MemoryStore

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
NUMBER = 5500


class Counting(MemoryStore):
    """How many rows were read and not changed yet, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.read = self.changed = self.most = 0
        self.load([Prefix(f"{number:05}/") for number in range(NUMBER)], NOW, lambda _: None)
        for prefix, row in self.rows.items():
            self.rows[prefix] = replace(row, status=JobStatus.ERROR, error_code="X")

    def with_status(self, status: JobStatus) -> Iterator[PrefixJob]:
        for row in super().with_status(status):
            self.read += 1
            self.most = max(self.most, self.read - self.changed)
            yield row

    def record(self, batch: Batch) -> frozenset[Prefix]:
        self.changed += len(batch.changes)
        return super().record(batch)


def test_rows_are_changed_as_they_are_read() -> None:
    """They were read to their end first: 1 KiB each, and a million of them a gigabyte (L5)."""
    store = Counting()
    done = sum(one.done for one in admin.retry_errors(store, NOW, code=None))
    assert done == NUMBER
    assert store.most <= admin.ROWS_AT_ONCE
    assert store.counts()[JobStatus.WAITING] == NUMBER


def test_what_the_daemon_finishes_meanwhile_is_not_met_again(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/store.db", create=True)) as store:
        prefixes = [Prefix(f"{number:05}/") for number in range(2500)]
        store.load(prefixes, NOW, lambda _: None)

        def finish() -> None:
            rows = list(store.with_status(JobStatus.WAITING))
            changes = [changed(row, replace(row, status=JobStatus.DONE, attempt=row.attempt + 1), NOW) for row in rows]
            assert not store.record(Batch(changes=tuple(changes), at=NOW))

        finish()
        met = []
        for one in admin.rerun_all(store, NOW):
            met.append(one.name)
            if len(met) % 500 == 0:
                finish()
        assert met == prefixes
