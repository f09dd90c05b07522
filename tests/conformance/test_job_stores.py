"""Every job store, over one suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sts_manager.ports import JobStore
from sts_manager.stores.sql.store import open_store
from tests.conformance.job_store import *  # noqa: F403
from tests.fakes.memory_store import MemoryStore
from tests.warehouses import bigquery_store


@pytest.fixture(params=["sqlite", "memory", "bigquery"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    made: JobStore = MemoryStore()
    if request.param == "sqlite":
        made = open_store(f"sqlite:///{tmp_path}/store.db", create=True)
    elif request.param == "bigquery":
        request.getfixturevalue("stage")
        made = bigquery_store()
    yield made
    made.close()
