"""One probe from its record to its end: what earlier ones left is removed, the parts are made in turn, everything is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata

from botocore.exceptions import ClientError

from cdn_worker.domain.errors import CdnWorkerError
from sts_manager.doctor.probe import cleaning, cloudfront, creates, s3, transfers, url_lists
from sts_manager.doctor.probe.bigquery import probe_bigquery
from sts_manager.doctor.probe.cleaning import clean, clean_earlier, clean_one
from sts_manager.doctor.probe.consent import Fitness
from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.monitoring import probe_monitoring
from sts_manager.doctor.probe.observation import Observation, Report, hide, leave_out, unsettle
from sts_manager.doctor.probe.record import MARKER, RecordFile
from sts_manager.doctor.probe.source import SourceView, view_source, write_samples
from sts_manager.doctor.probe.transfer_log import LOG
from sts_manager.doctor.probe.uploads import probe_uploads
from sts_manager.domain.errors import Fatal

FAULTS: tuple[type[Exception], ...] = (*cleaning.FAULTS, CdnWorkerError, ValueError, OSError)
WRITE = "source: written to"
FOLLOW = "follow: a day's operation"
LATE_S = 5.0
Tell = Callable[[Observation | str], None]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a probe. name: its row where it could not be made, or not to its end."""

    name: str
    run: Callable[[], Iterator[Observation]]


def run_probe(
    context: Context, file: RecordFile, fitness: Fitness, tell: Tell, heard: Callable[[], None] = lambda: None
) -> Report:
    """Make one probe. `tell` is given each row as it comes, and lines about what is removed.

    heard   called when an interrupt is followed

    Whatever ends it, also an interrupt, what was made is removed; what could not be is in the report and in the record,
    and the next probe removes it. Raises Fatal when nothing can be written, BadInput when another probe runs here.
    """
    with file.locked():
        left = clean_earlier(context, file, tell)
        file.add(context.record)
        observed: list[Observation] = []
        try:
            _mark(context)
            for observation in _observe(context, fitness):
                observed.append(observation)
                tell(observation)
        except KeyboardInterrupt:
            heard()
            # The service may carry out a call that was cut off after what it makes was looked for: so it is looked for twice.
            clean(context, context.record)
            context.sleep(LATE_S)
            raise
        finally:
            left += clean_one(context, context.record, file, tell)
    return Report(
        probe=context.record.id,
        began_at=context.record.began_at,
        version=metadata.version("sts-manager"),
        project=context.project,
        source=str(context.patient.source),
        destination=str(context.patient.sink),
        observations=tuple(observed),
        left_behind=tuple(left),
    )


def _mark(context: Context) -> None:
    """The first object of a probe, and the last one to go: by it the next probe finds what this one left."""
    headers = {"content-type": "application/json", "x-goog-if-generation-match": "0"}
    answer = context.clients.storage.put(context.bucket, context.name(MARKER), context.record.text().encode(), headers)
    if answer.status != 200:
        needed = "storage.objects.create is needed: grant roles/storage.objectUser" if answer.status == 403 else "mend that first"
        raise Fatal(f"gs://{context.bucket} takes no object ({answer.refusal()}); {needed}. Nothing else was made")


def _observe(context: Context, fitness: Fitness) -> Iterator[Observation]:
    yield from guard(Part("Cloud Storage", lambda: probe_uploads(context, fitness.kms_key)))
    for part, lacks in context.lacking.items():
        yield unsettle(part, lacks, "grant what is missing, then run the probe again")
    transfers_too = "transfers" not in context.lacking
    if transfers_too:
        yield from guard(Part("create", lambda: creates.probe_creates(context)))
    yield from guard(Part("source", lambda: _observe_source(context, transfers_too=transfers_too)))
    yield from guard(Part("BigQuery", lambda: probe_bigquery(context)))
    if "Monitoring" not in context.lacking:
        yield from guard(Part("Monitoring", lambda: probe_monitoring(context)))
    yield leave_out(FOLLOW, "it takes 25 hours; docs/probe.md says how to look by hand")


def _observe_source(context: Context, *, transfers_too: bool) -> Iterator[Observation]:
    """What needs an object of the source: this machine must be able to list it."""
    if context.from_s3 and context.clients.s3 is None:
        why = "no AWS credentials on this machine to choose an object by"
        subjects = (
            *transfers.FIRST,
            transfers.MANIFEST,
            transfers.FOLDER,
            LOG,
            *url_lists.ALL,
            *cloudfront.ALL,
            s3.CLASS,
            s3.METADATA,
            s3.PAYER,
        )
        yield from (leave_out(subject, why) for subject in subjects)
        return
    written: Iterable[str] = ()
    if context.record.source:
        try:
            written = write_samples(context)
        except ClientError as error:
            yield unsettle(WRITE, str(error), "grant s3:PutObject, or leave --probe-source-write out")
    view = view_source(context, written)
    for part in _source_parts(context, view, transfers_too=transfers_too):
        yield from guard(part)


def _source_parts(context: Context, view: SourceView, *, transfers_too: bool) -> Iterator[Part]:
    if transfers_too:
        yield Part("transfers", lambda: transfers.probe_transfers(context, view))
        yield Part("URL list", lambda: url_lists.probe_url_list(context, view))
    yield Part("CDN", lambda: cloudfront.probe_cloudfront(context, view))
    if context.from_s3:
        yield Part("S3", lambda: s3.probe_s3(context, view))


def guard(part: Part) -> Iterator[Observation]:
    """A part's rows; where it meets an error that it did not expect, one more that says so. No part stops another."""
    try:
        yield from part.run()
    except FAULTS as error:
        yield unsettle(part.name, f"{type(error).__name__}: {hide(str(error))}")
