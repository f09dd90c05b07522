"""A probe inside the tests: the stage behind the official clients, a clock that a sleep sets forward, and a process that dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sts_manager import app
from sts_manager.cli import probe as probe_wiring
from sts_manager.cli.probe_options import ProbeOptions
from sts_manager.doctor.probe.consent import examine_bucket, settle_rights
from sts_manager.doctor.probe.context import Clients, Context
from sts_manager.doctor.probe.observation import Observation, Outcome, Report
from sts_manager.doctor.probe.record import RecordFile
from sts_manager.doctor.probe.run import run_probe
from sts_manager.doctor.probe.storage import CloudStorage
from sts_manager.settings import Settings, load_settings
from tests.end_to_end.test_pool import cdn_flags
from tests.stages import SINK, SOURCE, s3_client
from tools.emulators.gcs.objects import Listing
from tools.emulators.stage import Stage

OBJECTS = {"p/1": b"one" * 500, "p/2": b"two" * 500, "p/a b%20c": b"three" * 300, "p/sub/": b""}
SHORT_S = 0.1


@dataclass
class Hours:
    """A clock that is as late as was slept: the stage's own work takes real time, of which little passes."""

    ahead: timedelta = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def sleep(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)
        time.sleep(SHORT_S)


class Killed(BaseException):
    """The process is dead: nothing that it would have done comes about any more."""


@dataclass
class Death:
    """Lets so many calls pass, then kills: `before` the call takes effect, or after. calls: the names of those that came."""

    at: int
    before: bool = True
    calls: list[str] = field(default_factory=list)

    def around(self, target: Any) -> Any:
        """The same object, whose calls may kill."""
        return _Deadly(target, self)

    def call(self, name: str, function: Callable[..., Any], /, *args: Any, **more: Any) -> Any:
        self.calls.append(name)
        if len(self.calls) > self.at or (self.before and len(self.calls) == self.at):
            raise Killed(name)
        result = function(*args, **more)
        if len(self.calls) == self.at:
            raise Killed(name)
        return result


class _Deadly:
    def __init__(self, target: Any, death: Death) -> None:
        self._target, self._death = target, death

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found) or name == "close":
            return found
        return lambda *args, **more: self._death.call(name, found, *args, **more)


@dataclass
class Probing:
    """Probes of one folder, as the command makes them; `flags`: the settings that it is given."""

    stage: Stage
    folder: Path
    flags: dict[str, Any] = field(default_factory=dict)
    options: ProbeOptions = field(default_factory=ProbeOptions)
    hours: Hours = field(default_factory=Hours)
    told: list[str] = field(default_factory=list)

    @property
    def file(self) -> RecordFile:
        return RecordFile(self.folder / "probes.jsonl")

    def settings(self) -> Settings:
        words = iter(cdn_flags(self.stage))
        given: dict[str, Any] = {name[2:].replace("-", "_"): value for name, value in zip(words, words, strict=True)}
        given |= {"source_bucket": f"s3://{SOURCE}", "destination_bucket": f"gs://{SINK}", "sts_log_failures": True}
        given |= {"store": f"sqlite:///{self.folder}/store.db", "publish_heartbeat": True} | self.flags
        return load_settings({key: value for key, value in given.items() if value is not None}, {}, None)

    @contextmanager
    def context(self, change: Callable[[Clients], Clients] = lambda clients: clients) -> Iterator[Context]:
        """A probe that is about to begin; change: what is to be changed about its clients."""
        with ExitStack() as opened:
            made = probe_wiring.make_context(self.settings(), self.options, opened)
            made = replace(made, now=self.hours.now, sleep=self.hours.sleep)
            record = replace(made.record, began_at=self.hours.now().isoformat())
            settled = settle_rights(replace(made, record=record), examine_bucket(made))
            yield replace(settled, clients=change(settled.clients))

    def run(self, change: Callable[[Clients], Clients] = lambda clients: clients) -> Report:
        with self.context(change) as context:
            return run_probe(context, self.file, examine_bucket(context), self._tell)

    def _tell(self, one: Observation | str) -> None:
        if isinstance(one, str):
            self.told.append(one)

    def prepare_store(self) -> None:
        app.store_of(self.settings(), create=True).close()


def deadly(death: Death) -> Callable[[Clients], Clients]:
    """All that a probe calls, through a death."""

    def change(clients: Clients) -> Clients:
        def metrics(location: str, task: str) -> Any:
            assert clients.metrics is not None
            sink: Any = clients.metrics(location, task)
            sink._client = death.around(sink._client)
            return sink

        def policies(project: str) -> Any:
            assert clients.policies is not None
            made: Any = clients.policies(project)
            made._alerts, made._metrics = death.around(made._alerts), death.around(made._metrics)
            return made

        if clients.warehouse is not None:
            clients.warehouse.client = death.around(clients.warehouse.client)
        storage = CloudStorage(death.around(clients.storage.session), clients.storage.base)
        return replace(
            clients,
            storage=storage,
            transfers=death.around(clients.transfers),
            s3=None if clients.s3 is None else death.around(clients.s3),
            web=death.around(clients.web),
            metrics=None if clients.metrics is None else metrics,
            policies=policies,
        )

    return change


def rows(report: Report) -> dict[str, Observation]:
    return {one.subject: one for one in report.observations}


def contradicted(report: Report) -> set[str]:
    return {one.subject for one in report.observations if one.contradicts}


def outcomes(report: Report) -> dict[str, Outcome]:
    return {one.subject: one.outcome for one in report.observations}


def remains(stage: Stage) -> list[str]:
    """All that probes left in the world."""
    assert stage.sts is not None
    assert stage.monitoring is not None
    left = [f"gs: {one.name}" for one in stage.objects.list(SINK, Listing(prefix=".sts-manager/")).objects]
    with s3_client(stage) as client:
        listed = client.list_object_versions(Bucket=SOURCE, Prefix=".sts-manager/")
        left += [f"s3: {one['Key']}" for kind in ("Versions", "DeleteMarkers") for one in listed.get(kind, ())]
    left += [f"job: {name}" for name, job in stage.sts.jobs.items() if "probe" in name and job.status.name != "DELETED"]
    left += [f"policy: {one.display_name}" for one in stage.monitoring.policies.policies.values() if "probe" in one.display_name]
    left += [f"metric: {name}" for name in stage.monitoring.series.descriptors if "/probe/" in name]
    if stage.bigquery is not None:
        for dataset in stage.bigquery.catalog.datasets.values():
            left += [f"table: {name}" for name in dataset.tables if "probe" in name]
    return left
