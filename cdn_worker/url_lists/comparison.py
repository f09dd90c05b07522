"""What a transfer of the service did not bring: its source's listing beside the sink's, by the service's own rules.

After a transfer that failed in part everything that differs is missed, and moved once more. After one that succeeded, only what
it passed over without a word: objects in an archive, and objects that have none by their name at the sink.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from cdn_worker.domain import archive
from cdn_worker.domain.listing_page import Listed
from cdn_worker.domain.verdict import GOOD, KeyVerdict, Verdict
from cdn_worker.listing.diff import Planned, Walk
from cdn_worker.object_copy.commands import Tries, patient
from cdn_worker.protocol.url_list_jobs import NAMES_MAX, Job, Kind, Row
from cdn_worker.protocol.url_list_ledger import ListLedger
from cdn_worker.storage.s3 import S3Source
from cdn_worker.url_lists.proofs import failed


class ArchiveCheck:
    """Asks S3 of objects one by one.

    cold   what is archived
    gone   keys of what is not there any more, or is another object by now

    Whoever may list a bucket may not always read it: an object that may not be looked at is neither.
    """

    def __init__(self, bucket: S3Source, backoff_s: float) -> None:
        self._bucket, self._backoff_s = bucket, backoff_s
        self.cold: list[tuple[Row, KeyVerdict]] = []
        self.gone: list[str] = []

    def look_at(self, row: Row) -> Walk:
        request = partial(self._bucket.head, row.key)
        head = yield from patient(request, Tries(self._backoff_s), self._bucket.explained, of="listing", also=(403, 404))
        if head.status == 403:
            return
        told = archive.archived_by_head(head.headers)
        if head.status == 404 or head.headers.get("etag") != f'"{row.etag}"':
            self.gone.append(row.key)
        elif told is not None:
            self.cold.append((row, failed(row, archive.CODE, told, Verdict.UNMAPPABLE)))


class Comparison:
    """One comparison at work. At most NAMES_MAX objects that a successful transfer left behind are named; all are counted."""

    def __init__(self, job: Job, ledger: ListLedger, bucket: S3Source, backoff_s: float) -> None:
        self._job, self._ledger = job, ledger
        self._check = ArchiveCheck(bucket, backoff_s)
        self._tiered: set[str] = set()
        self._named = 0

    def unreadable(self, listed: Listed) -> str | None:
        """Why the service passes over an object that is not at the sink; of what no listing tells note is taken."""
        cold = archive.left_by_service(listed, self._job.spec.storage_classes)
        if cold is None and listed.storage_class == archive.TIERING and len(self._tiered) < NAMES_MAX:
            self._tiered.add(listed.key)
        return cold

    def deliver(self, planned: Sequence[Planned]) -> None:
        """Take in what a page of the listings came to."""
        if self._job.kind is Kind.LEFT_BEHIND:
            self._deliver_left(planned)
            return
        rows = [_row_of(one) for one in planned if not isinstance(one, KeyVerdict)]
        self._ledger.found(self._job.name, rows, [one for one in planned if isinstance(one, KeyVerdict)])

    def _deliver_left(self, planned: Sequence[Planned]) -> None:
        rows: list[Row] = []
        verdicts: list[KeyVerdict] = []
        nameless: list[KeyVerdict] = []
        for one in planned:
            room = self._named < NAMES_MAX
            if isinstance(one, KeyVerdict):
                (verdicts if room or one.verdict in GOOD else nameless).append(one)
                self._named += one.verdict not in GOOD
            elif one.generation:
                continue  # another object is there: the service was told to keep it, or it was written since
            elif room:
                rows.append(_row_of(one))
                self._named += 1
            else:
                nameless.append(failed(one, "not_at_destination", ""))
        self._ledger.found(self._job.name, rows, verdicts, nameless)

    def looks(self) -> Iterator[Walk]:
        """A look at S3 for each object that is missed and could be archived, gone or another one by now."""
        every = self._job.kind is Kind.LEFT_BEHIND
        for row in self._ledger.rows(self._job.name):
            if every or row.key in self._tiered:
                yield self._check.look_at(row)

    def sort_out(self) -> None:
        """Record what was seen."""
        self._ledger.sort_out(self._job.name, [verdict for _, verdict in self._check.cold], self._check.gone)


def _row_of(task: Planned) -> Row:
    """An object of a comparison: its key stands where a URL would."""
    assert not isinstance(task, KeyVerdict)
    return Row(task.key, task.key, task.size, task.etag, task.modified, task.generation)
