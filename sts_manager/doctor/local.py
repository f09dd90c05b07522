"""What this program keeps: the job table, the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from google.api_core import exceptions

from cdn_worker.domain.errors import CdnWorkerError
from cdn_worker.queues.factory import PUBSUB, open_queues
from sts_manager.doctor.finding import Finding, Patient, failed, passed, skipped, warned
from sts_manager.domain.errors import StsManagerError
from sts_manager.domain.model import Route
from sts_manager.ports import JobStore

VENDORS: tuple[type[Exception], ...] = (exceptions.GoogleAPICallError, CdnWorkerError)
WRITES = ("bigquery.tables.getData", "bigquery.tables.updateData")


class HomeSide:
    """open_store: the job table; granted: of permissions, those that the caller has on it (None: it is no BigQuery table)."""

    def __init__(
        self, patient: Patient, open_store: Callable[[], JobStore], granted: Callable[[tuple[str, ...]], list[str]] | None
    ) -> None:
        self._patient, self._open_store, self._granted = patient, open_store, granted

    def store(self) -> Iterator[Finding]:
        """It opens, it is prepared, its rows can be read; and written, where that can be told without writing."""
        name = "job table"
        try:
            with closing(self._open_store()) as store:
                counts = store.counts()
        except StsManagerError as error:
            yield failed(name, str(error), "what the message says; `sts-manager prepare-tables` makes what is missing")
            return
        shown = self._patient.settings.store_shown
        if self._granted is not None:
            missing = [one for one in WRITES if one not in self._granted(WRITES)]
            if missing:
                project, dataset = self._patient.settings.bigquery or ("", self._patient.settings.dataset)
                schema = f"`{project or self._patient.project}`.{dataset}"
                statement = f'GRANT `roles/bigquery.dataEditor` ON SCHEMA {schema} TO "serviceAccount:THIS_ACCOUNT"'
                fix = f"bq query --use_legacy_sql=false '{statement}'"
                yield failed(name, f"{', '.join(missing)} missing on {shown}", fix)
                return
        total = sum(counts.values())
        if total:
            yield passed(name, f"{shown}: {total:,} prefixes")
        else:
            yield warned(name, f"{shown} has no prefix yet", "sts-manager prepare-tables --job-prefix-source-file FILE")

    def queue(self) -> Iterator[Finding]:
        """The pool's queue: topics, subscriptions, dead letters."""
        name, settings = "the pool's queue", self._patient.settings
        if Route.CDN.value not in self._patient.routes:
            yield skipped(name, "no prefix travels by route cdn")
            return
        if not settings.queue.startswith(PUBSUB):
            yield passed(name, settings.queue or "a SQLite file beside the store")
            return
        try:
            with closing(open_queues(settings.queue)) as queues:
                told = queues.warnings
        except CdnWorkerError as error:
            yield failed(name, str(error), f"cdn-worker prepare-queue --queue '{settings.queue}'")
            return
        if told:
            yield failed(name, "; ".join(told), f"cdn-worker prepare-queue --queue '{settings.queue}'")
        else:
            yield passed(name, f"{settings.queue.partition('?')[0]}: topics, subscriptions, dead letters")
