"""The names of objects that a followed job left behind: by the service's samples and its log, then by comparing the listings."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cdn_worker.domain.overwrite import Replace
from cdn_worker.protocol.url_list_jobs import Hints, Job, State
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.domain.days import day_of
from sts_manager.domain.location import Place, places_of
from sts_manager.domain.model import FailedObject, OperationSnapshot, OperationState, Route, StartJob
from sts_manager.domain.names import JobName, Prefix
from sts_manager.ports import Clock, JobStore
from sts_manager.routes.pool.copy_spec import pool_settings
from sts_manager.routes.pool.route import spec_of
from sts_manager.routes.sts.repairs import Behind, Compared, NotCompared, Wanted
from sts_manager.routes.sts.transfer_log import LoggedFailure
from sts_manager.routes.url_list.missing_objects import blames_bucket, comparison_of, samples_of
from sts_manager.settings import Settings

NAMES_MAX = 10_000
"""Of all prefixes together in the job store."""
FINDING_MAX = timedelta(hours=6)
"""A day's listings may take long; what takes longer is moved as a whole."""
Cause = tuple[str, str]
"""(error in lower case, details that begin with day and operation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What it takes. `ledger` opens that of the lister, `known_ledger` where there is one; `keep` has the lister run."""

    finds: Callable[[], bool]
    ledger: Callable[[], ListLedger]
    known_ledger: Callable[[], ListLedger | None]
    keep: Callable[[], None]
    logged: Callable[[str, OperationSnapshot], Mapping[str, LoggedFailure]]
    open_store: Callable[[], JobStore]


class FollowedFailures:
    """The `Comparisons` of the repairs of route sts-follow. To be used from one thread."""

    def __init__(self, settings: Settings, means: Means, clock: Clock) -> None:
        self._settings, self._means, self._clock = settings, means, clock
        self._causes: dict[JobName, dict[str, Cause]] = {}
        self._compared: dict[str, Compared] = {}

    def named(self, wanted: Wanted) -> Mapping[Prefix, Behind] | None:
        """What the service itself named of the objects that failed; None where it named only some."""
        causes, all_named = self._named(wanted)
        self._causes[wanted.job] = causes
        under = _grouped(causes, wanted.prefixes)
        if wanted.number == 1 and self._known(comparison_of(wanted.name)) is None:
            self._show(wanted, under, causes)
        if not all_named or sum(map(len, under.values())) < len(causes):
            return None
        return {
            prefix: Behind(objects=len(keys), example=_example(keys[0], causes[keys[0]][1])) for prefix, keys in under.items()
        }

    def _named(self, wanted: Wanted) -> tuple[dict[str, Cause], bool]:
        """(a cause for each key that is named, relative to the source's path; whether all are named)."""
        source = self._source(wanted)
        found: dict[str, Cause] = {}
        all_named = True
        for one in wanted.failed:
            keys = samples_of(one.results, source.bucket)
            keys |= {key: (seen.error, seen.details) for key, seen in self._means.logged(wanted.row.project, one).items()}
            failed = one.counters.objects_failed
            # What failed as a whole names nothing, or not all of it.
            whole = one.state is OperationState.FAILED and blames_bucket(one.results, source.bucket)
            all_named = all_named and 0 < failed <= len(keys) and not whole
            found |= {key.removeprefix(source.path): (code, f"{_stamp(one)}: {told}") for key, (code, told) in keys.items()}
        return found, all_named

    def _source(self, wanted: Wanted) -> Place:
        return places_of(wanted.row.source, wanted.row.destination, otherwise=(self._settings.source, self._settings.sink))[0]

    def _show(self, wanted: Wanted, under: Mapping[Prefix, list[str]], causes: Mapping[str, Cause]) -> None:
        """Let `failures` have the names, as far as they are known."""
        if not under:
            return
        root = self._source(wanted).path
        with closing(self._means.open_store()) as store:
            for prefix, keys in under.items():
                failures = [_failed(prefix, root + key, *causes[key], wanted.job) for key in keys[:NAMES_MAX]]
                store.put_failures(prefix, failures, self._clock.now())

    def compare(self, wanted: Wanted) -> Compared | None:
        """Begin a comparison, or look at it; None while it goes on. Raises NotCompared."""
        name = comparison_of(wanted.name)
        if name in self._compared:
            return self._compared[name]
        if not self._means.finds():
            raise NotCompared("listings cannot be compared on this machine")
        job = self._known(name)
        if job is None:
            self._begin(name, wanted)
            return None
        if job.state is State.LISTING and self._clock.now() - job.began_at < FINDING_MAX:
            self._means.keep()
            return None
        if job.state is not State.READY:
            raise NotCompared(job.error_message or f"listings were compared for {FINDING_MAX} in vain")
        ledger, root = self._means.ledger(), job.spec.source_root
        behind = {}
        for prefix in ledger.shared(name):
            number, key, details = ledger.behind(name, root + prefix)
            if number:
                behind[Prefix(prefix)] = Behind(objects=number, example=_example(key.removeprefix(root), details))
        self._compared[name] = Compared(manifest=job.manifest, behind=behind)
        return self._compared[name]

    def _begin(self, name: str, wanted: Wanted) -> None:
        row, settings = wanted.row, self._settings
        order = StartJob(
            prefix=wanted.prefixes[0],
            attempt=row.attempt,
            job_name=wanted.name,
            route=Route.STS_FOLLOW,
            source=row.source,
            destination=row.destination,
        )
        # As after any transfer, S3 is listed as it is: Route.STS_S3 stands for no CDN.
        spec = spec_of(order, pool_settings(settings, order, Route.STS_S3))
        limits = [one for one in (settings.modified_before, wanted.before) if one is not None]
        spec = replace(
            spec,
            job=name,
            replace=Replace.NEVER if settings.overwrite_when == "NEVER" else Replace.DIFFERENT,
            before=min(limits).isoformat() if limits else "",
        )
        causes = self._causes.get(wanted.job, {})
        told = _grouped(causes, wanted.prefixes)
        shared = {str(prefix): len(told.get(prefix, ())) for prefix in wanted.prefixes}
        codes = [error.code.lower() for one in wanted.failed for error in sorted(one.errors, key=lambda error: -error.count)]
        last = wanted.failed[-1]
        otherwise = f"{_stamp(last)}: not at the sink after it; the service gives reasons for a few objects only"
        hints = Hints(
            otherwise=(codes[0] if codes else "failed", otherwise),
            by_key={spec.source_root + key: cause for key, cause in causes.items()},
        )
        self._means.keep()
        self._means.ledger().compare(spec, str(wanted.job), self._clock.now(), hints, project=row.project, shared=shared)

    def settled(self, job: JobName, prefixes: Collection[Prefix]) -> Mapping[Prefix, Behind]:
        """Everything that was named and can travel is at the destination. What cannot is returned, and named on."""
        ledger = self._means.known_ledger()
        if ledger is not None and ledger.mend(str(job)):
            self._means.keep()
            return {
                Prefix(prefix): Behind(objects=number, example=_example(key, details))
                for prefix, number, key, details in ledger.stuck(str(job))
            }
        with closing(self._means.open_store()) as store:
            for prefix in {one.prefix for one in store.failures(None, NAMES_MAX)} & set(prefixes):
                store.put_failures(prefix, [], self._clock.now())
        return {}

    def _known(self, name: str) -> Job | None:
        ledger = self._means.known_ledger()
        return None if ledger is None else ledger.job(name)


def tell_shared(ledger: ListLedger, job: Job, store: JobStore, at: datetime) -> None:
    """Let the job store know what a comparison that several prefixes share found of each."""
    known = {one.key.removeprefix(job.spec.source_root): one for one in ledger.failures(job.name, NAMES_MAX)}
    shared = ledger.shared(job.name)
    under = _grouped(known, [Prefix(prefix) for prefix in shared])
    for prefix, told in shared.items():
        keys = under.get(Prefix(prefix), [])
        if keys or told:
            failures = [
                FailedObject(
                    prefix=Prefix(prefix),
                    key=known[key].key,
                    size=known[key].size,
                    etag=known[key].etag,
                    verdict=known[key].verdict,
                    error=known[key].error,
                    details=known[key].details,
                    job_name=job.prefix,
                )
                for key in keys
            ]
            store.put_failures(Prefix(prefix), failures, at)
            ledger.told_of(job.name, prefix, len(failures))


def _grouped(keys: Collection[str], prefixes: Collection[Prefix]) -> dict[Prefix, list[str]]:
    """Keys by the prefix that they are under: no prefix is under another one. What is under none is left out."""
    ordered = sorted(prefixes)
    under: dict[Prefix, list[str]] = {}
    for key in sorted(keys):
        at = bisect_right(ordered, key) - 1
        if at >= 0 and key.startswith(ordered[at]):
            under.setdefault(ordered[at], []).append(key)
    return under


def _stamp(failed: OperationSnapshot) -> str:
    """Where an object failed: what `failures` shows before the cause."""
    return f"{day_of(failed)}, {failed.name}"


def _example(key: str, details: str) -> str:
    return f"for example {key} ({details})"


def _failed(prefix: Prefix, key: str, error: str, details: str, job: JobName) -> FailedObject:
    return FailedObject(
        prefix=prefix, key=key, size=0, etag="", verdict="failed", error=error, details=details, job_name=str(job)
    )
