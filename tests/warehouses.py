"""BigQuery on the stage, for tests: the store under its usual names."""

from __future__ import annotations

import os

from sts_manager.stores.bigquery.client import Warehouse, connect
from sts_manager.stores.bigquery.setup import open_store, preparation
from sts_manager.stores.bigquery.statements import Names
from sts_manager.stores.bigquery.store import BigQueryStore
from tools.emulators.stage import PROJECT

NAMES = Names(project=PROJECT, dataset="data_migration", location="US", job="sts_job", history="sts_job_history")


def warehouse(names: Names = NAMES) -> Warehouse:
    return connect(names, os.environ["BIGQUERY_EMULATOR_HOST"])


def bigquery_store(names: Names = NAMES) -> BigQueryStore:
    """A store over a dataset that is prepared first."""
    made = warehouse(names)
    for step in preparation(made):
        step.does()
    return open_store(made)
