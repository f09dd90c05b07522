"""Removing what a probe made, also one that died: all names follow from its record, so nothing needs to be remembered besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import requests
from botocore.exceptions import BotoCoreError, ClientError
from google.api_core import exceptions

from sts_manager.doctor.probe.context import Clients, Context
from sts_manager.doctor.probe.monitoring import probe_alerts, probe_metric
from sts_manager.doctor.probe.observation import hide
from sts_manager.doctor.probe.record import MARKER, ROOT, ProbeRecord, RecordFile, id_in, parse_record, time_in
from sts_manager.doctor.probe.storage import Refusal
from sts_manager.domain.errors import NotFound, StsManagerError
from sts_manager.domain.location import Scheme, place
from sts_manager.stores.bigquery.client import CALL_S, ONCE, VENDOR

FAULTS: tuple[type[Exception], ...] = (
    *(StsManagerError, requests.RequestException, BotoCoreError, ClientError, Refusal, *VENDOR),
    *(ValueError, OSError),  # an answer, or a marker, that says what nobody expected
)
SETTLE_S, SETTLE_POLL_S = 60.0, 2.0
"""How long operations of deleted jobs are waited for: one that still writes would leave an object behind."""


def clean(context: Context, record: ProbeRecord) -> list[str]:
    """Remove all that a probe made; what could not be removed is told. The marker goes last, and only when nothing else is left.

    A step that fails stops no other. Interrupted, it may be done again from the beginning.
    """
    left: list[str] = []
    steps: list[tuple[str, Callable[[], None]]] = [
        (f"transfer jobs {record.job('list')} and its like", lambda: _remove_jobs(context, record)),
        ("alert policies and the metric of the probe", lambda: _remove_monitoring(context.clients, record)),
        (f"table {record.table}", lambda: _remove_table(context.clients, record)),
        (f"objects under {record.source_path}", lambda: _remove_source_objects(context.clients, record)),
        (f"objects under {record.destination}/{record.path}", lambda: _remove_objects(context.clients, record)),
    ]
    for what, step in steps:
        try:
            step()
        except FAULTS as error:
            left.append(f"{what}: {hide(str(error))}")
    if not left:
        try:
            _remove_marker(context.clients, record)
        except FAULTS as error:
            left.append(f"{record.destination}/{record.path}{MARKER}: {hide(str(error))}")
    return left


def clean_earlier(context: Context, file: RecordFile, tell: Callable[[str], None]) -> list[str]:
    """Remove what earlier probes left behind: those that this machine knows, and those whose marker is found.

    Returns what stays. Another machine's probe is left alone while it may still run.
    """
    left: list[str] = []
    for record in file.records():
        left += clean_one(context, record, file, tell)
    try:
        marked = list(_find_marked(context))
    except FAULTS as error:
        marked = []
        left.append(f"nobody knows what other machines' probes left in gs://{context.bucket}: {hide(str(error))}")
        tell(left[-1])
    for record in marked:
        if record.stale(context.now()):
            left += clean_one(context, record, file, tell)
        else:
            tell(f"probe {record.id} may still run elsewhere (it began {record.began_at}): it is left alone for an hour")
    return left


def clean_one(context: Context, record: ProbeRecord, file: RecordFile, tell: Callable[[str], None]) -> list[str]:
    """Remove what one probe made, and forget it; what stays is told, returned, and kept in mind."""
    if record.project != context.project:
        # Its transfer jobs are in a project that these flags say nothing of: that is no matter of this probe.
        tell(f"probe {record.id} ran in project {record.project}: run the probe there, to remove what it left")
        return []
    left = [f"of probe {record.id}: {remnant}" for remnant in clean(context, record)]
    if not left:
        file.remove(record)
        tell(f"removed: all that probe {record.id} made")
    for line in left:
        tell(f"still there: {line}")
    return left


def _find_marked(context: Context) -> Iterator[ProbeRecord]:
    """The probes that left anything in this destination bucket. Without a readable marker, the id tells when it began."""
    storage, bucket = context.clients.storage, context.bucket
    ids = set()
    for page in storage.list_pages(bucket, ROOT, delimiter="/", fields="prefixes,nextPageToken"):
        ids |= {known for prefix in page.get("prefixes", ()) if (known := id_in(prefix))}
    for probe in sorted(ids):
        assumed = replace(context.record, id=probe, began_at=time_in(probe).isoformat())
        marker = storage.read(bucket, assumed.path + MARKER)
        try:
            record = parse_record(marker.body.decode()) if marker.status == 200 else assumed
        except ValueError:
            record = assumed
        # Whoever may write to the bucket may write a marker: it is believed about its own probe and this bucket only.
        yield replace(record, destination=f"gs://{bucket}") if record.id == probe else assumed


def _remove_jobs(context: Context, record: ProbeRecord) -> None:
    """Raises StsManagerError."""
    if not record.transfers:
        return
    transfers = context.clients.transfers
    for name in record.jobs:
        try:
            transfers.delete(name)
        except NotFound:
            continue
    for _ in context.wait(SETTLE_S, SETTLE_POLL_S):
        names = [str(name) for name in record.jobs]
        if not any(seen.active for _, seen in transfers.operations(jobNames=names)):
            return
    raise StsManagerError("their operations have not ended yet")


def _remove_monitoring(clients: Clients, record: ProbeRecord) -> None:
    if not record.monitoring:
        return
    if clients.policies is None:
        raise Refusal(f"they are in project {record.monitoring}: run the probe with --publish-heartbeat")
    policies = clients.policies(record.monitoring)
    policies.remove(probe_alerts(record))
    policies.forget(probe_metric(record))


def _remove_table(clients: Clients, record: ProbeRecord) -> None:
    if not record.table:
        return
    if clients.warehouse is None:
        raise Refusal("run the probe with the --store of that time; BigQuery itself drops it an hour after it was made")
    client = clients.warehouse.client
    try:
        client.delete_table(record.table, not_found_ok=True, retry=ONCE, timeout=CALL_S)
    except exceptions.Forbidden:
        # Who may not make a table may perhaps not drop one either: there is none then.
        try:
            client.get_table(record.table, retry=ONCE, timeout=CALL_S)
        except exceptions.NotFound:
            return
        raise


def _remove_source_objects(clients: Clients, record: ProbeRecord) -> None:
    """With their versions, where those may be listed."""
    if not record.source:
        return
    if clients.s3 is None:
        raise Refusal("no AWS credentials on this machine")
    source = place(record.source)
    if source.scheme is not Scheme.S3:
        return
    under = f"{source.path}{record.path}"
    try:
        pages = clients.s3.get_paginator("list_object_versions").paginate(Bucket=source.bucket, Prefix=under)
        versions = [
            {"Key": version["Key"], "VersionId": version["VersionId"]}
            for page in pages
            for kind in ("Versions", "DeleteMarkers")
            for version in page.get(kind, ())
        ]
    except ClientError:
        pages = clients.s3.get_paginator("list_objects_v2").paginate(Bucket=source.bucket, Prefix=under)
        versions = [{"Key": version["Key"]} for page in pages for version in page.get("Contents", ())]
    for version in versions:
        clients.s3.delete_object(Bucket=source.bucket, **version)


def _remove_objects(clients: Clients, record: ProbeRecord) -> None:
    """All versions of all but the marker, by generation."""
    storage, bucket = clients.storage, place(record.destination).bucket
    fields = "items(name,generation),nextPageToken"
    names = [
        (item["name"], int(item["generation"]))
        for page in storage.list_pages(bucket, record.path, versions="true", fields=fields)
        for item in page.get("items", ())
    ]
    for name, generation in names:
        if name != f"{record.path}{MARKER}":
            _delete(clients, bucket, name, generation)


def _remove_marker(clients: Clients, record: ProbeRecord) -> None:
    """And the folders of a hierarchical namespace, deepest first."""
    storage, bucket = clients.storage, place(record.destination).bucket
    for page in storage.list_pages(
        bucket, f"{record.path}{MARKER}", versions="true", fields="items(name,generation),nextPageToken"
    ):
        for item in page.get("items", ()):
            _delete(clients, bucket, item["name"], int(item["generation"]))
    if record.folders:
        for item in sorted(storage.folders(bucket, record.path).json().get("items", ()), key=lambda folder: -len(folder["name"])):
            storage.delete_folder(bucket, item["name"])


def _delete(clients: Clients, bucket: str, name: str, generation: int) -> None:
    answer = clients.storage.delete(bucket, name, generation)
    if answer.status not in (204, 200, 404):
        raise Refusal(f"gs://{bucket}/{name}: {answer.refusal()}")
