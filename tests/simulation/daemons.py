"""The real daemon in virtual time: its loop, and the threads that keep its pool, are actors of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, cast

from google.api_core import exceptions

from sts_manager.daemon.loop import Daemon, Intervals, Stop
from sts_manager.daemon.pass_result import PassResult
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.domain.location import place
from sts_manager.domain.model import Policy, PrefixJob, Route
from sts_manager.ports import JobStore, Routes
from sts_manager.routes.local.background import Keeping
from sts_manager.routes.pool.controller import PoolKeeper, Told
from sts_manager.routes.pool.leading import take_over
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.route import CdnRoute, PoolSettings
from sts_manager.routes.sts.quotas import ServiceQuotas
from sts_manager.routes.sts.rate_limiter import Pacer
from sts_manager.routes.sts.route import StsClient, StsRoute
from sts_manager.routes.sts.spec import S3Access, TransferSettings
from sts_manager.stores.lease import StoreLease
from tests.simulation.buckets import SINK, SOURCE
from tests.simulation.chance import OFTEN, Called, Chance
from tests.simulation.follow_part import follow_route
from tests.simulation.following import Following
from tests.simulation.timeline import Process, Timeline
from tests.simulation.transfers import PROJECT, TransferApi, Transfers
from tests.simulation.url_lists import UrlLists
from tests.simulation.workers import SimQueues

LEASE_S = 90.0
KEEPER_S = 15.0
ATTEMPTS_MAX = 3
SETTINGS = TransferSettings(
    project=PROJECT,
    source=place(f"s3://{SOURCE}"),
    sink=place(f"gs://{SINK}"),
    s3_access=S3Access(role_arn="arn:aws:iam::123456789012:role/stage-reader"),
)
POOLED = PoolSettings(source=place(f"s3://{SOURCE}"), sink=place(f"gs://{SINK}"))
STORE_CALLS = frozenset(
    {
        "counts",
        "live",
        "startable",
        "record",
        "control",
        "lease_text",
        "swap_lease",
        "totals",
        "put_failures",
        "put_objects",
        "note_ledger",
    }
)
STS_CALLS = frozenset(
    {
        "create_transfer_job",
        "get_transfer_job",
        "run_transfer_job",
        "list_operations",
        "list_transfer_jobs",
        "delete_transfer_job",
        "pause_transfer_operation",
        "resume_transfer_operation",
    }
)
LEDGER_CALLS = frozenset(
    {"begin", "published", "set_paused", "fold", "told", "unpark", "bury", "end", "forget", "lead", "sweep", "knows"}
)


def away() -> Exception:
    return StoreUnavailable("the disk is full")


def client_of(
    transfers: Transfers, process: Process, chance: Chance | None = None, leading: Callable[[], bool] = lambda: True
) -> StsClient:
    """A client of one process; with `chance`, faults come between."""
    api: Any = TransferApi(transfers, process.name)
    if chance is not None:
        api = Called(
            api,
            "sts",
            process,
            chance,
            calls=STS_CALLS,
            refused={
                "sts unavailable": lambda: exceptions.ServiceUnavailable("try again"),  # type: ignore[no-untyped-call]
                "sts exhausted": lambda: exceptions.ResourceExhausted("quota exceeded"),  # type: ignore[no-untyped-call]
                "sts denied": lambda: exceptions.PermissionDenied("the sink may not be used"),  # type: ignore[no-untyped-call]
            },
            lost={"sts answer lost": lambda: exceptions.DeadlineExceeded("no answer came")},  # type: ignore[no-untyped-call]
        )
    return StsClient(api, PROJECT, Pacer(process.clock), leading=leading)


def open_ledger(path: Path) -> PoolLedger:
    return PoolLedger(path)


class SimStop(Stop):
    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def wait(self, seconds: float) -> bool:
        if not self():
            self._timeline.sleep(seconds)
        return self()


class Ground(Protocol):
    """What a daemon stands on: a world, or a sweep."""

    timeline: Timeline
    chance: Chance
    transfers: Transfers
    queues: SimQueues
    takeovers: int

    @property
    def following(self) -> Following | None: ...
    @property
    def lists(self) -> UrlLists | None: ...
    @property
    def jobs(self) -> JobStore: ...
    @property
    def prefixes_per_job(self) -> int: ...
    def passed(self, process: Process) -> None: ...


class DaemonProcess:
    """One life of a daemon."""

    def __init__(self, world: Ground, process: Process, ledger: Path) -> None:
        self.process, self._world = process, world
        self._ledger, self._host = open_ledger(ledger), ledger.stem
        self.leading = False
        process.spawn("loop", self._run)

    def _run(self) -> None:
        self._daemon(self._world).run()

    def close(self) -> None:
        self._ledger.close()

    def _called(self, inner: object, label: str, calls: frozenset[str], often: float = 1.0) -> Any:
        refused, lost = {f"{label} away": away}, {f"{label}'s answer lost": away}
        return Called(inner, label, self.process, self._world.chance, calls=calls, refused=refused, lost=lost, often=often)

    def _daemon(self, world: Ground) -> Daemon:
        process, timeline = self.process, world.timeline
        store = cast("JobStore", self._called(world.jobs, "store", STORE_CALLS))
        ledger = cast("PoolLedger", self._called(self._ledger, "ledger", LEDGER_CALLS, OFTEN))
        queues = world.queues.of(process)
        lease = StoreLease(store, process.clock, lock_path=None, lease_s=LEASE_S)
        clients = {PROJECT: client_of(world.transfers, process, world.chance, lambda: lease.fresh)}
        pool = CdnRoute(queues, ledger, lambda _order: POOLED, process.clock)
        follow, mend, follows = follow_route(world.following, clients, SETTINGS, process, self._host, store)
        routes: Routes = {Route.STS_S3: StsRoute(clients, SETTINGS), Route.CDN: pool, Route.STS_FOLLOW: follow}
        lists = None if world.lists is None else world.lists.route(clients, POOLED, self._called, process.clock)
        if lists is not None:
            routes = {**routes, Route.STS_URL_LIST: lists}
        comparer = None if world.lists is None else world.lists.comparer(POOLED, self._called, lambda: store, process)
        policy = Policy(
            migration=world.jobs.control().migration,
            route=Route.STS_S3,
            prefixes_per_job=world.prefixes_per_job,
            running_max=4,
            cdn_running_max=3,
            attempts_max=ATTEMPTS_MAX,
            follows=follows,
            tells_empty=True,
            retry_delay=timedelta(seconds=60),
            retry_delay_max=timedelta(minutes=10),
            breaker_delay=timedelta(minutes=2),
            breaker_delay_max=timedelta(minutes=20),
        )
        stop = SimStop(timeline)
        reconciler = Reconciler(
            store,
            routes,
            policy,
            process.clock,
            interval_s=60.0,
            fence=lambda: lease.fence,
            stopping=stop,
            leading=lambda: lease.fresh,
            followed=mend,
            arriving=_nobody if comparer is None else comparer.arriving,
            quotas=ServiceQuotas(lambda: clients, process.clock),
        )
        keeper = PoolKeeper(
            queues,
            ledger,
            process.clock,
            told=Told(store=lambda: store),
            leading=lambda: lease.fresh,
            epoch=lambda: lease.fence,
        )
        turns = [] if lists is None or comparer is None else [lists.advance, comparer.tell]
        duty = _Duty(self, keeper, turns, lambda: take_over(ledger, store, lease.fence, process.clock.now()))
        intervals = Intervals(job_s=60.0, metrics_s=60.0, sleep_s=15.0)
        return Daemon(reconciler, lease, process.clock, intervals, stop, watch=self._passed, duty=duty)

    def _passed(self, _result: PassResult) -> None:
        self._world.passed(self.process)


def _nobody(_job: PrefixJob) -> bool:
    """Nothing is compared."""
    return True


class _Duty:
    """The pool is kept while the daemon leads, by an actor of the same process."""

    def __init__(
        self, daemon: DaemonProcess, keeper: PoolKeeper, lists: Sequence[Callable[[], bool]], lead: Callable[[], None]
    ) -> None:
        self._daemon, self._keeper, self._lists, self._lead = daemon, keeper, lists, lead
        self._turns: tuple[Callable[[], bool], ...] = (
            keeper.steer,
            keeper.fold_reports,
            keeper.mourn,
            keeper.sweep,
            keeper.tell,
        )
        self._shift = 0

    def __enter__(self) -> None:
        self._daemon.leading = True
        self._daemon._world.takeovers += 1
        self._shift += 1
        shift = self._shift
        process = self._daemon.process
        keeping = self._keeper._keeping
        keeping._ending = _Ending(process)  # type: ignore[assignment]

        def led() -> bool:
            self._lead()
            told.append(True)
            return False

        told: list[bool] = []

        def keep() -> None:
            while not told and self._daemon.leading and shift == self._shift:
                keeping.guarded(led)
            while self._daemon.leading and shift == self._shift:
                for turn in self._turns:
                    keeping.guarded(turn)
                process.timeline.sleep(KEEPER_S)

        process.spawn("keeper", keep)
        if self._lists:
            process.spawn("lists", lambda: self._keep_lists(shift))

    def _keep_lists(self, shift: int) -> None:
        """Beside the pool's, as in the program: a thread of its own."""
        process = self._daemon.process
        keeping = Keeping("lists", (), rest_s=KEEPER_S)
        keeping._ending = _Ending(process)  # type: ignore[assignment]
        while self._daemon.leading and shift == self._shift:
            for turn in self._lists:
                keeping.guarded(turn)
            process.timeline.sleep(KEEPER_S)

    def __exit__(self, *_how: object) -> None:
        self._daemon.leading = False


class _Ending:
    """An event that is never set: waiting for it takes virtual time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        self._process.timeline.sleep(seconds)
        return False
