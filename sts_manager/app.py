"""From settings to objects: the only place that knows every adapter."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import google.auth
import sqlalchemy as sa
from google.auth import exceptions as auth_exceptions

from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.clock import SystemClock
from sts_manager.daemon.heartbeat import Pulse
from sts_manager.daemon.loop import Daemon, Intervals, Stop
from sts_manager.daemon.pass_result import PassResult
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.destinations import refuse_shared_names
from sts_manager.doctor.finding import Patient
from sts_manager.domain.errors import BadInput, Fatal, StoreUnavailable, StsManagerError
from sts_manager.domain.location import Scheme
from sts_manager.domain.model import Policy, Route
from sts_manager.domain.routing import Choice, choose
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.metrics.alerts import Alert, alerts
from sts_manager.metrics.log import LogSink
from sts_manager.ports import JobStore, Routes, TransferProject, TransferRoute
from sts_manager.routes.event_driven.setup import Mending, follow_route
from sts_manager.routes.local.operations import Beside, OwnOperations
from sts_manager.routes.pool.admin import PoolOperations
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.setup import Pool, ledger_path
from sts_manager.routes.sts.quotas import ServiceQuotas
from sts_manager.routes.sts.route import StsClient, StsProject, StsRoute, connect
from sts_manager.routes.sts.spec import S3Access, TransferSettings
from sts_manager.routes.unavailable import NoRoute
from sts_manager.routes.url_list.operation import ListOperations
from sts_manager.routes.url_list.setup import UrlLists, list_ledger_path
from sts_manager.settings import Settings
from sts_manager.stores.bigquery.statements import Names
from sts_manager.stores.lease import StoreLease
from sts_manager.stores.queries import Asked
from sts_manager.stores.sql.store import SqlStore, open_store

if TYPE_CHECKING:
    # The clients of clouds take a second to import, and few commands need them all: imported where they are made.
    from sts_manager.doctor.run import Means
    from sts_manager.metrics.cloud_monitoring import AlertPolicies
    from sts_manager.stores.bigquery.client import Warehouse
    from sts_manager.stores.bigquery.store import BigQueryStore

STS_EMULATOR, STS_REST_EMULATOR = "STORAGE_TRANSFER_EMULATOR_HOST", "STORAGE_TRANSFER_REST_EMULATOR_HOST"
BIGQUERY_EMULATOR = "BIGQUERY_EMULATOR_HOST"
MONITORING_EMULATOR = "MONITORING_EMULATOR_HOST"
PATIENCE_S = 15.0
"""How long one call to the store is repeated before the daemon calls itself degraded and goes on without it."""
SILENT_S = 180.0
"""A turn may wait this long for a store and a service that are both away, and the daemon is well all the same."""
CLOCK = SystemClock()


def warehouse_of(settings: Settings) -> Warehouse:
    """The connection to the dataset of a BigQuery store."""
    from sts_manager.stores.bigquery.client import connect as connect_bigquery  # noqa: PLC0415 - see above

    assert settings.bigquery is not None
    project, dataset = settings.bigquery
    names = Names(
        project=project or project_of(settings),
        dataset=dataset,
        location=settings.dataset_location,
        job=settings.job_table,
        history=settings.job_history_table,
    )
    # A loop that sleeps briefly would rather look again than wait within one call.
    patience_s = min(PATIENCE_S, settings.sleep_timeout)
    return connect_bigquery(names, os.environ.get(BIGQUERY_EMULATOR), patience_s=patience_s)


def store_of(
    settings: Settings, *, create: bool = False, told: Callable[[str], None] = lambda _: None, keep_older_errors: bool = False
) -> JobStore:
    """The store. `create`: make what is missing, and bring an older schema up to date, telling each step of it.

    keep_older_errors: what ended in error in a dataset of the older tool is not tried again when it is taken over.
    """
    if settings.bigquery is not None:
        return _dataset_of(settings, create=create, told=told, keep_errors=keep_older_errors or settings.no_retry_on_job_error)
    return open_store(settings.store, job_table=settings.job_table, history_table=settings.job_history_table, create=create)


def _dataset_of(settings: Settings, *, create: bool, told: Callable[[str], None], keep_errors: bool) -> BigQueryStore:
    from sts_manager.stores.bigquery import setup  # noqa: PLC0415 - see above

    warehouse = warehouse_of(settings)
    try:
        if create:
            for step in setup.preparation(warehouse, keep_errors=keep_errors):
                step.does()
                told(step.says)
        return setup.open_store(warehouse)
    except BaseException:  # whatever it is, it goes on its way; only the connection is not left open
        warehouse.close()
        raise


def asked(store: JobStore) -> Asked:
    """The store as one that answers queries: every store that a command opens does."""
    if not isinstance(store, SqlStore):
        from sts_manager.stores.bigquery.store import BigQueryStore  # noqa: PLC0415 - see above

        assert isinstance(store, BigQueryStore)
    return store


def preparation_of(settings: Settings, *, keep_older_errors: bool) -> list[str]:
    """What `prepare-tables` would do to a BigQuery dataset, in words; an SQL store is made or brought up to date as it opens."""
    if settings.bigquery is None:
        return []
    from sts_manager.stores.bigquery import setup  # noqa: PLC0415 - see above

    warehouse = warehouse_of(settings)
    try:
        keep_errors = keep_older_errors or settings.no_retry_on_job_error
        return [step.says for step in setup.preparation(warehouse, keep_errors=keep_errors)]
    finally:
        warehouse.close()


def project_of(settings: Settings, environment: Mapping[str, str] | None = None) -> str:
    """The project of the transfer jobs: --project, GOOGLE_CLOUD_PROJECT, or what the credentials say."""
    if settings.projects:
        return settings.projects[0]
    known = (environment or os.environ).get("GOOGLE_CLOUD_PROJECT", "")
    if known:
        return known
    try:
        _, inferred = google.auth.default()
    except auth_exceptions.GoogleAuthError:
        inferred = None
    if not inferred:
        raise BadInput("--project: no project given, and none can be inferred; set --project or GOOGLE_CLOUD_PROJECT")
    return str(inferred)


def project_told(settings: Settings) -> str:
    """The project for the log. Raises BadInput where one is needed and none is known: route cdn alone needs none."""
    try:
        return project_of(settings)
    except BadInput:
        if route_of(settings) is not Route.CDN:
            raise
        return ""


def clients_of(settings: Settings) -> Mapping[str, StsClient]:
    """One for each project that shares the work; the first is meant where a row names none."""
    projects = settings.projects or (project_of(settings),)
    emulator, rest = os.environ.get(STS_EMULATOR), os.environ.get(STS_REST_EMULATOR)
    return {project: connect(project, emulator, CLOCK, rest) for project in projects}


@contextmanager
def transfer_project(settings: Settings) -> Iterator[TransferProject]:
    """The transfer service, with the operations that this program runs itself beside it where there are any."""
    with ExitStack() as opened:
        own: list[OwnOperations] = []
        if (path := ledger_path(settings)).exists():
            pool = PoolLedger(path)
            opened.callback(pool.close)
            own.append(PoolOperations(pool, CLOCK))
        if (path := list_ledger_path(settings)).exists():
            lists = ListLedger(path, StoreUnavailable)
            opened.callback(lists.close)
            own.append(ListOperations(lists))
        yield Beside(lambda: StsProject(clients_of(settings)), own)


def s3_access(settings: Settings, environment: Mapping[str, str]) -> S3Access | None:
    """How S3 is opened: a role, a secret, or the key pair of the environment (never of a flag: flags show in `ps`)."""
    if settings.source.scheme is not Scheme.S3:
        return None
    if settings.s3_role_arn:
        return S3Access(role_arn=settings.s3_role_arn)
    if settings.s3_credentials_secret:
        return S3Access(credentials_secret=settings.s3_credentials_secret)
    key_id, secret = environment.get("AWS_ACCESS_KEY_ID", ""), environment.get("AWS_SECRET_ACCESS_KEY", "")
    if not key_id or not secret:
        raise BadInput(
            f"{settings.source} needs credentials: --s3-role-arn, --s3-credentials-secret, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment"
        )
    if environment.get("AWS_SESSION_TOKEN"):
        raise BadInput(
            "AWS_SESSION_TOKEN is set: these keys are temporary, and the Storage Transfer Service takes only lasting ones; "
            "use --s3-role-arn"
        )
    return S3Access(key_id=key_id, secret_key=secret)


def transfer_settings(settings: Settings) -> TransferSettings:
    return TransferSettings(
        project=project_of(settings),
        source=settings.source,
        sink=settings.sink,
        s3_access=s3_access(settings, os.environ),
        s3_cloudfront_domain=settings.s3_cloudfront_domain,
        s3_managed_private_network=settings.s3_managed_private_network,
        overwrite=settings.overwrite_dest_objects,
        overwrite_when=settings.overwrite_when,
        storage_class=settings.storage_class,
        modified_since=settings.modified_since,
        modified_before=settings.modified_before,
        log_failures=settings.sts_log_failures,
        storage_classes=settings.storage_classes,
    )


def chosen(settings: Settings) -> Choice:
    return choose(settings.route, from_s3=settings.source.scheme is Scheme.S3, cdn_url=settings.cdn_url)


def route_of(settings: Settings) -> Route:
    """The route of prefixes whose row names none."""
    return chosen(settings).route


class OwnRoutes:
    """The routes that this program runs itself: kept going while this daemon leads (as a context).

    clients         the transfer service's, made when they are first asked for: shared by all routes, as quotas are a project's
    known_clients   those, once they are made: who only counts asks nobody for credentials
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.known_clients: Mapping[str, StsClient] = {}
        self._lease: StoreLease | None = None
        open_own = partial(store_of, settings)  # the daemon's is not to be used by two threads
        self.pool = Pool(settings, open_own)
        self.lists = UrlLists(settings, open_own, self.clients)
        self._leading: ExitStack | None = None

    def clients(self) -> Mapping[str, StsClient]:
        """Raises BadInput, Fatal where they cannot be had."""
        if not self.known_clients:
            made = clients_of(self._settings)
            self.known_clients = {project: replace(client, leading=self.leads) for project, client in made.items()}
        return self.known_clients

    def under(self, lease: StoreLease) -> None:
        """Everything is done under this lease."""
        self._lease = lease
        self.pool.fence = lambda: lease.fence
        self.pool.leads = self.leads

    def leads(self) -> bool:
        return self._lease is None or self._lease.fresh

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            for one in (self.pool, self.lists):
                entered.enter_context(one)
            self._leading = entered.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._leading is not None:
            self._leading.__exit__(kind, error, trace)
        self._leading = None

    def catch_up(self) -> None:
        """For one pass without threads."""
        self.pool.catch_up()
        self.lists.catch_up()

    def close(self) -> None:
        self.pool.close()
        self.lists.close()


def routes_of(settings: Settings, own: OwnRoutes) -> Routes:
    """Both STS routes are one adapter: what differs is in the job's spec, which a started row has behind it."""
    route: TransferRoute
    follow: TransferRoute
    try:
        for_all = transfer_settings(settings)
        route = StsRoute(own.clients(), for_all, own.lists)
        follow = follow_route(settings, for_all, own.clients(), own.lists.followed(), partial(store_of, settings))
    except (BadInput, Fatal) as error:
        if route_of(settings) is not Route.CDN:
            raise
        route = follow = NoRoute(str(error))  # nobody asked for it; a row that does is told why
    service = {Route.STS_S3: route, Route.STS_GCS: route, Route.STS_FOLLOW: follow}
    return {**service, Route.STS_URL_LIST: own.lists, Route.CDN: own.pool}


def policy_of(settings: Settings, migration: str) -> Policy:
    return Policy(
        migration=migration,
        route=route_of(settings),
        projects=settings.projects or ("",),
        prefixes_per_job=settings.prefixes_per_job,
        running_max=settings.max_concurrent_jobs,
        cdn_running_max=settings.max_concurrent_cdn_jobs,
        attempts_max=settings.max_attempts,
        retry=not settings.no_retry_on_job_error,
        ignore_stalled=settings.allow_new_jobs_when_stalled,
        stalled_after=timedelta(seconds=settings.metrics_interval),
        retry_delay=timedelta(seconds=settings.retry_delay),
        follows=bool(settings.event_queue),
        tells_empty=not settings.allow_empty and not settings.filtered,
    )


def bound_migration(settings: Settings, store: JobStore) -> str:
    """The store's migration id. Raises BadInput when the store belongs to other buckets: a typo must not split a migration."""
    control = store.bind(str(settings.source), str(settings.sink))
    for flag, ours, stored in (
        ("--source-bucket", str(settings.source), control.source),
        ("--destination-bucket", str(settings.sink), control.sink),
    ):
        if ours != stored:
            raise BadInput(
                f"{flag} is {ours}, but {settings.store_shown} belongs to a migration with {stored} "
                "that has begun; use another --store"
            )
    refuse_shared_names(store, settings.sink)
    return control.migration


def reconciler_of(settings: Settings, store: JobStore, lease: StoreLease | None, stop: Stop, own: OwnRoutes) -> Reconciler:
    def fence() -> int:
        assert lease is not None
        return lease.fence

    # A dry run writes nothing, so it does not bind the store to these buckets either.
    migration = store.control().migration if lease is None else bound_migration(settings, store)
    routes = routes_of(settings, own)
    return Reconciler(
        store,
        routes,
        policy_of(settings, migration),
        CLOCK,
        interval_s=settings.metrics_interval,
        fence=None if lease is None else fence,
        stopping=stop,
        leading=own.leads,
        arriving=own.lists.arriving,
        ended=own.lists.ended,
        followed=Mending(routes[Route.STS_FOLLOW]),
        quotas=ServiceQuotas(lambda: own.known_clients, CLOCK),
    )


def lease_of(settings: Settings, store: JobStore) -> StoreLease:
    """The lease of a store; a lock file tells processes of one host apart: beside a SQLite file, else in the temporary folder."""
    if settings.bigquery is not None:
        project, dataset = settings.bigquery
        name = f"sts-manager-{os.getuid()}-{project or project_of(settings)}-{dataset}-{settings.job_table}.lock"
        path: Path | None = Path(tempfile.gettempdir()) / name.replace(":", "-")
    else:
        url = sa.make_url(settings.store)
        path = Path(f"{url.database}.lock") if url.get_backend_name() == "sqlite" else None
    return StoreLease(store, CLOCK, lock_path=path, lease_s=max(60.0, 3 * settings.sleep_timeout))


def answers_of(settings: Settings) -> ServiceAnswers | None:
    """What a probe observed; None where nobody probed, and where the job table cannot be opened."""
    try:
        with closing(store_of(settings)) as store:
            return store.control().answers
    except StsManagerError:
        return None


def patient_of(settings: Settings, routes: frozenset[str], answers: ServiceAnswers | None = None) -> Patient:
    """What `doctor` looks at. routes: those that prefixes may take."""
    return Patient(
        settings=settings,
        project=project_of(settings),
        source=settings.source,
        sink=settings.sink,
        routes=routes,
        now_s=lambda: CLOCK.now().timestamp(),
        loopback=STS_EMULATOR in os.environ,
        answers=answers,
    )


def means_of(settings: Settings) -> Means:
    from sts_manager.doctor.run import Means  # noqa: PLC0415 - see above

    return Means(
        clients=partial(clients_of, settings),
        open_store=partial(store_of, settings),
        granted=None if settings.bigquery is None else partial(granted_on_table, settings),
    )


def granted_on_table(settings: Settings, permissions: tuple[str, ...]) -> list[str]:
    """Of permissions, those that the caller has on the job table of a BigQuery store."""
    warehouse = warehouse_of(settings)
    try:
        return warehouse.granted(permissions)
    finally:
        warehouse.close()


def monitoring_project(settings: Settings) -> str:
    return settings.stackdriver_project or project_of(settings)


def pulse_of(settings: Settings, store: JobStore) -> Pulse:
    """The heartbeat: to Cloud Monitoring with --publish-heartbeat, else to the log."""
    if not settings.publish_heartbeat:
        return Pulse(LogSink(), CLOCK, last_after_s=0.0)
    from sts_manager.metrics.cloud_monitoring import CloudMonitoring, Origin  # noqa: PLC0415 - see above

    named, control = settings.bigquery, store.control()
    location, answers = series_location(settings), control.answers
    origin = Origin(
        project=monitoring_project(settings),
        location=location if answers is None else answers.location(location),
        namespace=named[1] if named is not None else "sql",
        task_id=control.migration,
    )
    return Pulse(CloudMonitoring(origin, os.environ.get(MONITORING_EMULATOR)), CLOCK)


def series_location(settings: Settings) -> str:
    """Where the daemon's series are, as long as no probe found that Cloud Monitoring refuses it."""
    return "global" if settings.bigquery is None else _region(settings.dataset_location)


def _region(location: str) -> str:
    """A dataset's location as Monitoring takes it: a region, or "global" for a multi-region such as US."""
    return location.lower() if "-" in location else "global"


def alert_policies(settings: Settings) -> AlertPolicies:
    from sts_manager.metrics.cloud_monitoring import AlertPolicies  # noqa: PLC0415 - see above

    return AlertPolicies(monitoring_project(settings), os.environ.get(MONITORING_EMULATOR))


def alerts_of(settings: Settings) -> tuple[Alert, ...]:
    return alerts(
        sleep_s=settings.sleep_timeout, job_interval_s=settings.job_interval, metrics_interval_s=settings.metrics_interval
    )


def toucher(path: str) -> Callable[[], None]:
    """What touches the health file. Raises BadInput when it cannot be written."""
    if not path:
        return lambda: None

    try:
        Path(path).touch()
    except OSError as error:
        raise BadInput(f"--health-file {path} cannot be written: {error.strerror}") from error

    def touch() -> None:
        with suppress(OSError):  # a full disk makes the health check fail, not the daemon
            Path(path).touch()

    return touch


def silent_for(settings: Settings) -> tuple[float | None, float]:
    """(seconds since the daemon touched its health file, None without one; how many are too many)."""
    try:
        touched = Path(settings.health_file).stat().st_mtime
    except OSError:
        return None, 0.0
    return max(0.0, CLOCK.now().timestamp() - touched), max(SILENT_S, 3 * settings.sleep_timeout)


def daemon_of(
    settings: Settings,
    store: JobStore,
    stop: Stop,
    own: OwnRoutes,
    *,
    until_done: bool = False,
    watch: Callable[[PassResult], None] = lambda _result: None,
) -> tuple[Daemon, Reconciler, StoreLease]:
    lease = lease_of(settings, store)
    own.under(lease)
    own.lists.answers = store.control().answers
    reconciler = reconciler_of(settings, store, lease, stop, own)
    pulse = pulse_of(settings, store)
    intervals = Intervals(job_s=settings.job_interval, metrics_s=settings.metrics_interval, sleep_s=settings.sleep_timeout)
    healthy = toucher(settings.health_file)
    daemon = Daemon(
        reconciler,
        lease,
        CLOCK,
        intervals,
        stop,
        until_done=until_done,
        watch=watch,
        pulse=pulse,
        healthy=healthy,
        duty=own,
        news=own.pool.has_news,
        unfinished=own.lists.comparing,
    )
    return daemon, reconciler, lease
