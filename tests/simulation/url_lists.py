"""Prefixes that travel by URL lists: the real route, ledger and lister; the service takes what the lists name, or something else.

Two fifths of the worlds have some, where both daemons run on one host: its ledger is one file there. The lister is a process of
its own, and dies as others do. Objects change between listing and transfer, and names may be such as nobody expected.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from cdn_worker.http.engine import Engine
from cdn_worker.protocol.url_list_jobs import State
from cdn_worker.protocol.url_list_ledger import ListLedger
from cdn_worker.url_lists.runner import Sizes
from cdn_worker.url_lists.service import Listers
from sts_manager import admin
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.domain.model import Chosen, JobStatus, PrefixJob, Route
from sts_manager.domain.names import Prefix
from sts_manager.ports import Clock, JobStore
from sts_manager.routes.pool.route import PoolSettings, spec_of
from sts_manager.routes.sts.route import StsClient
from sts_manager.routes.url_list.route import UrlListRoute
from tests.simulation.buckets import PARTS_FROM, SINK
from tests.simulation.chance import OFTEN, Called
from tests.simulation.left_behind import SimComparer
from tests.simulation.timeline import Process
from tests.simulation.workers import SimEngine
from tools.emulators.gcs.objects import Attributes
from tools.emulators.gcs.objects import Refused as NotHere
from tools.emulators.sts.copier import Status
from tools.emulators.sts.service import Operation

if TYPE_CHECKING:
    from tests.simulation.world import World

SHARE = 0.8
ROWS_OF_A_LIST = 3
AT_A_STEP = 2
LISTER_S = 1.0
OTHER_BYTES = b"what the service brought instead"
LEDGER_CALLS = frozenset(
    {
        "add_part",
        "begin",
        "compare",
        "end",
        "enter",
        "forget",
        "found",
        "job",
        "list_anew",
        "live",
        "may_resume",
        "missed",
        "name_by",
        "parts",
        "seen",
        "set_paused",
        "settle",
        "started",
        "told",
        "untold",
    }
)


@dataclass
class _Row:
    """A line of a list that the service has read."""

    url: str
    size: int
    md5: str


class UrlLists:
    """Of one world. `travels`: whether it has such prefixes; `names`: how the service calls what it brings by a list."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.draw = random.Random(f"lists {world.seed}")
        self.travels = world.shape.one_host and self.draw.random() < SHARE
        self.names = self.draw.choice(["decoded", "decoded", "decoded", "encoded", "encoded", "unexpected"])
        self.path = world.folder / "lists.db"
        self.ledger: ListLedger | None = None
        self.lister: Process | None = None
        self._todo: dict[str, list[_Row]] = {}
        self._versions: dict[str, list[tuple[float, bytes]]] = {}
        self._states: dict[str, State] = {}

    def load(self) -> dict[Prefix, Chosen]:
        """The prefixes, with their objects."""
        if not self.travels:
            return {}
        buckets, draw = self.world.buckets, self.draw
        buckets.tells_parts = draw.random() < 0.75
        self.ledger = ListLedger(self.path, StoreUnavailable)
        prefixes = [Prefix(f"lst-{index:02}/") for index in range(draw.randint(1, 2))]
        for prefix in prefixes:
            for index in range(draw.randint(1, 12)):
                key = f"{prefix}{index:02}" + draw.choice(["", " ä", "+%"])
                self._put(key, draw.randbytes(draw.randint(PARTS_FROM, 400) if draw.random() < 0.5 else draw.randint(0, 40)))
                if draw.random() < 0.02:
                    buckets.tiered.add(key)
        return dict.fromkeys(prefixes, Chosen(route=Route.STS_URL_LIST))

    def _put(self, key: str, body: bytes) -> None:
        before = self.world.buckets.objects.get(key)
        if before is not None:
            self.world.sources.change(key, before)
        self.world.buckets.objects[key] = body
        self._versions.setdefault(key, []).append((self.world.timeline.now, body))

    # What the service does

    def progress(self, operation: Operation, draw: random.Random, fail: float) -> bool:
        """Go on with an operation that takes what a list names; whether it has come to its end."""
        work, chance = operation.work, self.world.chance
        todo = self._todo.get(operation.name)
        if todo is None:
            try:
                todo = self._todo[operation.name] = self._read(work.spec.http_data_source.list_url)
            except (NotHere, ValueError) as error:
                # Gone since, or not as it was sent: Cloud Storage may store other bytes in these worlds.
                code = "NOT_FOUND" if isinstance(error, NotHere) else "INVALID_ARGUMENT"
                work.fail(code, work.spec.http_data_source.list_url, "the list is not there, or is none")
                work.status = Status.FAILED
                return True
        for row in todo[:AT_A_STEP]:
            work.counts.found[0] += 1
            work.counts.found[1] += row.size
            why = self._bring(row, work.spec.gcs_data_sink.path, draw, fail)
            counter = work.counts.failed if why is not None else work.counts.copied
            counter[0] += 1
            counter[1] += row.size
            if why is not None:
                work.fail(*why)
        del todo[:AT_A_STEP]
        if draw.random() < fail / 5:
            chance.count("list's operation failed", operation.name)
            work.fail("INTERNAL", "", "an internal error")
            work.status = Status.FAILED
            return True
        if todo or draw.random() < 0.5:
            return False
        work.status = Status.SUCCESS
        if work.counts.failed[0]:
            work.status = Status.FAILED if draw.random() < 0.5 else Status.SUCCESS
        return True

    def _read(self, location: str) -> list[_Row]:
        bucket, _, name = location.removeprefix("gs://").partition("/")
        header, *lines = self.world.buckets.store.get(bucket, name).read().decode().splitlines()
        if header != "TsvHttpData-1.0":
            raise ValueError(header)
        cells = [(*line.split("\t"), "")[:3] for line in lines]
        return [_Row(url, int(size), md5) for url, size, md5 in cells]

    def _bring(self, row: _Row, path: str, draw: random.Random, fail: float) -> tuple[str, str, str] | None:
        """Why it could not: (code, URL, details)."""
        chance, buckets = self.world.chance, self.world.buckets
        parts = urlsplit(row.url)
        key = unquote(parts.path).removeprefix("/")
        body = buckets.cached.get(key, buckets.objects.get(key))
        if body is None:
            return "NOT_FOUND", row.url, "HTTP 404"
        if buckets.is_cold(key) and key not in buckets.cached:
            return "PERMISSION_DENIED", row.url, "InvalidObjectState"
        if draw.random() < fail / 3:
            chance.count("listed object failed", key)
            return "UNAVAILABLE", row.url, "the host was away"
        if len(body) != row.size:
            return "FAILED_PRECONDITION", row.url, "its size is another one than the list says"
        if row.md5 and base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode() != row.md5:
            return "FAILED_PRECONDITION", row.url, "its MD5 is another one than the list says"
        if draw.random() < fail * 0.7:
            chance.count("other bytes brought", key)
            body = (OTHER_BYTES * 20)[: len(body)] if draw.random() < 0.5 and body else body + b"!"
        name = {"decoded": unquote(parts.path), "encoded": parts.path, "unexpected": f"/{hash_of(row.url)}"}[self.names]
        buckets.store.put(SINK, f"{path}{parts.hostname}{name}", body, Attributes())
        return None

    # A daemon's part

    def route(
        self, clients: Mapping[str, StsClient], settings: PoolSettings, called: Callable[..., Any], clock: Clock
    ) -> UrlListRoute | None:
        if self.ledger is None:
            return None
        return UrlListRoute(clients, self._called(called), lambda order: spec_of(order, settings), clock)

    def comparer(
        self, settings: PoolSettings, called: Callable[..., Any], store: Callable[[], JobStore], process: Process
    ) -> SimComparer | None:
        """What has it found out which objects a transfer passed over."""
        return None if self.ledger is None else SimComparer(self._called(called), settings, store, process)

    def _called(self, called: Callable[..., Any]) -> ListLedger:
        return cast("ListLedger", called(self.ledger, "list ledger", LEDGER_CALLS, OFTEN))

    # What happens

    def begin(self) -> None:
        if self.travels:
            self.world._every(20.0, self._step)
            self.world._every(150.0, self._happen)

    def _step(self) -> None:
        """Whoever starts the lister starts it anew when it has died."""
        if self.lister is None or not self.lister.alive:
            process = self.lister = Process(self.world.timeline, "lister", self.world.clocks[0])
            process.spawn("loop", SimListers(self, process).run)
        ledger = self.ledger
        assert ledger is not None
        for job in ledger.live():
            if self._states.get(job.name) != job.state:
                self._states[job.name] = job.state
                if job.state is not State.LISTING:
                    self.world.chance.told.append(f"list {job.name} is {job.state.value}")

    def _happen(self) -> None:
        if not self.world.chance.storming:
            return
        draw, chance, objects = self.draw, self.world.chance, self.world.buckets.objects
        match draw.randrange(12):
            case 0 if self.lister is not None:
                chance.count("lister killed")
                self.lister.kill()
            case 1 if self.lister is not None:
                self.lister.doomed = True
            case 2 | 3 | 4:
                # What has changed is to be brought, too.
                at = self.world._now()
                rows = [job for job in self.world.store.rows.values() if job.prefix.startswith("lst-")]
                admin.rerun(self.world.store, [job.prefix for job in rows if job.status is JobStatus.DONE], at)
                admin.retry(self.world.store, [job.prefix for job in rows if job.status is JobStatus.ERROR], at)
            case _ if self._versions:
                key = draw.choice(sorted(self._versions))
                chance.count("listed object changed", key)
                longer = draw.random() < 0.5
                self._put(key, draw.randbytes(len(objects[key]) + longer))

    def close(self) -> None:
        if self.lister is not None:
            self.lister.kill()
        if self.ledger is not None:
            self.ledger.close()

    # What must hold

    def check_done(self, row: PrefixJob) -> None:
        """Every object of a prefix that is done is at the sink, as it was at some time since this attempt began."""
        there = self.world.buckets.store.bucket(SINK).objects
        wanted = sorted(key for key in self._versions if key.startswith(row.prefix))
        cold = sorted(self.world.buckets.tiered & set(wanted))
        assert not cold, f"{row.prefix!r} is called done, and {cold} cannot be read"
        wrong = [key for key in wanted if key not in there or there[key].read() not in {one for _, one in self._versions[key]}]
        assert not wrong, f"{row.prefix!r} is called done, and {wrong} are not there: {row}"
        counters = row.counters
        settled = counters.objects_copied + counters.objects_skipped
        assert settled == len(wanted), f"{row.prefix!r}: {settled} settled of {len(wanted)}: {counters}"

    def check(self) -> None:
        """Counts of a job that is over add up to its listing."""
        if self.ledger is None:
            return
        for row in self.world.store.rows.values():
            if row.route is Route.STS_URL_LIST and row.status in (JobStatus.DONE, JobStatus.ERROR) and row.job_name is not None:
                job = self.ledger.job(str(row.job_name))
                if job is None or job.state is not State.OVER or job.error_code:
                    continue
                counts = job.objects
                told = f"{row.prefix!r}: {counts} do not add up"
                assert counts["listed"] == counts["skipped"] + counts["moved"] + counts["failed"], told

    def compare(self) -> None:
        """After a rerun without faults what is done is what the source has now, and nothing of ours is left in the bucket."""
        if self.ledger is None:
            return
        there = self.world.buckets.store.bucket(SINK).objects
        for row in self.world.store.rows.values():
            if row.route is Route.STS_URL_LIST and row.status is JobStatus.DONE:
                wanted = [key for key in self._versions if key.startswith(row.prefix)]
                wrong = [key for key in wanted if key not in there or there[key].read() != self.world.buckets.objects[key]]
                assert not wrong, f"{row.prefix!r} was run again and is called done, and {wrong} are not there: {row}"
        at_work = tuple(job.stage for job in self.ledger.live())
        left = [name for name in there if name.startswith(".sts-manager/") and not name.startswith(at_work or ("-",))]
        assert not left, f"lists are left in the bucket: {left}"


class SimListers(Listers):
    """The real one over exchanges in virtual time. It dies at any call to its ledger."""

    def __init__(self, lists: UrlLists, process: Process) -> None:
        world = lists.world
        ledger = Called(lists.ledger, "list ledger", process, world.chance, calls=LEDGER_CALLS, refused={}, lost={}, often=OFTEN)
        sizes = Sizes(rows=ROWS_OF_A_LIST, loopback=True)
        super().__init__(cast("ListLedger", ledger), world.kinds.pool.reach, sizes, stopping=lambda: False)
        self._engine.close()
        self._engine = cast("Engine", _ListerEngine(process, world.buckets, random.Random(lists.draw.random())))


class _ListerEngine(SimEngine):
    def turn(self, _timeout_s: float) -> None:
        """Real ones look again within a twentieth of a second; here that would take most of the simulation's time."""
        super().turn(LISTER_S)


def hash_of(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:8]


FAULTS = (
    "list ledger away",
    "list ledger's answer lost",
    "list's operation failed",
    "listed object changed",
    "listed object failed",
    "lister killed",
    "other bytes brought",
)
