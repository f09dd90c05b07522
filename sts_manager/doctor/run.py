"""The checks, in the order in which a migration would meet them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from sts_manager.doctor import aws, cdn, google, local
from sts_manager.doctor.aws import AwsSide
from sts_manager.doctor.cdn import CdnSide
from sts_manager.doctor.finding import Finding, Patient, guarded, passed, warned
from sts_manager.doctor.google import GoogleSide, continent
from sts_manager.doctor.listing import Scan
from sts_manager.doctor.local import HomeSide
from sts_manager.domain.location import Scheme
from sts_manager.ports import JobStore
from sts_manager.routes.sts.route import StsClient

VENDORS = (*google.VENDORS, *aws.VENDORS, *cdn.VENDORS, *local.VENDORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What the checks are made with. clients: of the transfer service, by project; granted: see `HomeSide`."""

    clients: Callable[[], Mapping[str, StsClient]]
    open_store: Callable[[], JobStore]
    granted: Callable[[tuple[str, ...]], list[str]] | None = None


def examine(patient: Patient, means: Means, prefixes: Sequence[str] = (), scan_max: int = 100_000) -> Iterator[Finding]:
    """Every finding, as it is found. Nothing is changed anywhere."""
    clients = means.clients()
    with closing(GoogleSide(patient, clients[patient.project])) as googles, closing(AwsSide(patient)) as awss:
        yield from _in_project(googles)
        for project, client in clients.items():
            if project != patient.project:
                with closing(GoogleSide(replace(patient, project=project), client)) as others:
                    yield from (replace(one, check=f"{one.check} ({project})") for one in _in_project(others))
        yield from guarded("buckets", googles.buckets, VENDORS)
        yield from guarded("workers' rights on the sink", googles.own_writes, VENDORS)
        if patient.source.scheme is Scheme.S3:
            yield from guarded("how the service opens S3", awss.access, VENDORS)
            yield from guarded("AWS region", awss.where, VENDORS)
            yield from guarded("the source", awss.reading, VENDORS)
            yield from guarded("distance", lambda: _distance(googles.location(), awss.region), VENDORS)
            with closing(CdnSide(patient, awss.sample)) as cdns:
                yield from guarded("the CDN", cdns.reading, VENDORS)
        homes = HomeSide(patient, means.open_store, means.granted)
        yield from guarded("job table", homes.store, VENDORS)
        yield from guarded("the pool's queue", homes.queue, VENDORS)
        for prefix in prefixes:
            yield from guarded(f"prefix {prefix!r}", partial(_scan, patient, googles, awss, prefix, scan_max), VENDORS)


def _in_project(googles: GoogleSide) -> Iterator[Finding]:
    """What each project that shares the work must have."""
    yield from guarded("Storage Transfer API", googles.api, VENDORS)
    yield from guarded("permissions", googles.permissions, VENDORS)


def _scan(patient: Patient, googles: GoogleSide, awss: AwsSide, prefix: str, scan_max: int) -> Iterator[Finding]:
    return Scan(patient, awss.client(), prefix, scan_max, has_folders=googles.has_folders()).findings()


def _distance(sink: str, region: str) -> Iterator[Finding]:
    name = "distance"
    there, here = continent(sink), continent(region)
    if not there or not here:
        return
    if there != here:
        yield warned(
            name,
            f"the source is in {region}, the sink in {sink}: slower, and egress between continents costs more",
            "is the sink where it should be?",
        )
    else:
        yield passed(name, f"{region} to {sink}")
