"""A URL list of two rows through the CDN: whether the service takes it from a private bucket, and what it calls the objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from cdn_worker.domain.signing import Digest
from cdn_worker.domain.url_list import Naming, UrlList, UrlListFault, host_fault, landing, md5_column, naming_by
from sts_manager.doctor.probe.cdn_reader import cdn_base, cdn_url, query
from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.observation import Observation, judge, leave_out, note, unsettle
from sts_manager.doctor.probe.operations import OperationTrace, begin, watch
from sts_manager.doctor.probe.source import SourceObject, SourceView
from sts_manager.routes.sts.spec import ListedTransfer, list_job

TAKEN, NAMES, NO_MD5 = "URL list", "URL list: names", "URL list: a row without MD5"
ALL = (TAKEN, NAMES, NO_MD5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFacts:
    """What one list brought. landed: each name under the list's path; rows: address → whether the row had an MD5."""

    state: str
    errors: tuple[str, ...]
    landed: tuple[str, ...]
    rows: Mapping[str, bool]
    ended: bool = True

    @property
    def observed(self) -> str:
        came = f"{self.state}, {len(self.landed):,} of {len(self.rows):,} objects came"
        return f"{came}; {'; '.join(self.errors)}" if self.errors else came


def probe_url_list(context: Context, view: SourceView) -> Iterator[Observation]:
    rows = choose_rows(view)
    fault = "--cdn-url is not given" if not context.patient.settings.cdn_url else ""
    if not fault and not context.patient.loopback:
        fault = host_fault(cdn_base(context)) or ""
    if not fault and len(rows) < 2:
        fault = f"fewer than two small objects among {len(view.objects):,} listed"
    if fault:
        yield from (leave_out(subject, fault) for subject in ALL)
        return
    bare = rows[0].key
    try:
        facts, whole = _transfer_list(context, "list", rows, bare), None
        with_md5 = [row for row in rows if row.key != bare and md5_column(row.etag)]
        if facts.ended and not facts.landed and with_md5:
            # Was it for the row without an MD5, or does the service take no list at all? One whose rows all have it tells.
            whole = _transfer_list(context, "list-md5", with_md5, "")
    except ListNotStarted as error:
        yield from (unsettle(subject, str(error)) for subject in ALL)
        return
    yield from judge_list(facts, whole)


class ListNotStarted(Exception):
    """A list could not be stored, or its transfer could not be run."""


def _transfer_list(context: Context, role: str, rows: Sequence[SourceObject], bare: str) -> ListFacts:
    """Transfer a list. role: of its job, and where it goes; bare: the key whose row has no MD5.

    Raises ListNotStarted, UrlListFault.
    """
    urls = {cdn_url(context, row.key): row for row in rows}
    name = context.name(f"{role}.tsv")
    headers = {"content-type": "text/tab-separated-values", "x-goog-if-generation-match": "0"}
    stored = context.clients.storage.put(context.bucket, name, write_list(context, urls, bare), headers)
    if stored.status != 200:
        raise ListNotStarted(stored.refusal())
    storage_class = context.patient.settings.storage_class
    transfer = ListedTransfer(
        name=context.record.job(role),
        description=f"STS Manager: probe {context.record.id}",
        location=f"gs://{context.bucket}/{name}",
        bucket=context.bucket,
        path=context.place(role).path,
        storage_class="" if storage_class == "PRESERVE" else storage_class,
    )
    begun = begin(context, list_job(transfer, context.project))
    if begun.operation is None:
        raise ListNotStarted(begun.malformed if begun.refused is None else f"{begun.refused.code}: {begun.refused.message}")
    seen = watch(context, [begun.operation])[begun.operation]
    # It holds a signature that lasts for an hour: it goes at once, not with the rest.
    context.clients.storage.delete(context.bucket, name, int(stored.value("x-goog-generation")))
    context.clients.transfers.delete(begun.job.name)
    return _read_facts(context, role, seen, {url: row.key != bare and bool(md5_column(row.etag)) for url, row in urls.items()})


def choose_rows(view: SourceView) -> list[SourceObject]:
    """Two small objects: one for the row without an MD5, and, where there is one, one with a space and a percent sign."""
    hard = next((candidate for candidate in view.small() if " " in candidate.key and "%" in candidate.key), None)
    hard = hard or next((candidate for candidate in view.small() if set(candidate.key) & set(" %+")), None)
    others = [candidate for candidate in view.small() if candidate is not hard]
    return others[:2] if hard is None else [*others[:1], hard]


def write_list(context: Context, urls: Mapping[str, SourceObject], bare: str) -> bytes:
    """The file as it is uploaded, in the order of its URLs. Raises UrlListFault."""
    made = UrlList(urlsplit(cdn_base(context)).netloc, query(context, Digest(context.patient.settings.cdn_digest)))
    mark = "?" if made.query else ""
    for url in sorted(urls, key=lambda address: f"{address}{mark}".encode()):
        row = urls[url]
        if not made.add(url, row.size, "" if row.key == bare else row.etag):
            raise UrlListFault("two rows do not fit into a list")
    return made.text()


def _read_facts(context: Context, role: str, seen: OperationTrace, rows: Mapping[str, bool]) -> ListFacts:
    path = context.place(role).path
    pages = context.clients.storage.list_pages(context.bucket, path, fields="items(name),nextPageToken")
    landed = tuple(item["name"].removeprefix(path) for page in pages for item in page.get("items", ()))
    errors = seen.snapshot.errors if seen.snapshot is not None else ()
    messages = tuple(f"{error.code} × {error.count:,} ({error.sample_details})" for error in errors)
    state = seen.snapshot.raw_state if seen.snapshot else ""
    return ListFacts(state=state, errors=messages, landed=landed, rows=rows, ended=seen.ended)


def judge_list(facts: ListFacts, whole: ListFacts | None = None) -> Iterator[Observation]:
    """facts: of a list with a row without MD5; whole: of one without such a row, tried where nothing came by the first."""
    last = facts if whole is None else whole
    if not last.ended:
        yield from (unsettle(subject, "the operation did not end in time", "see it in the console") for subject in ALL)
        return
    observed = facts.observed if whole is None else f"{facts.observed}; a list whose rows all have an MD5: {whole.observed}"
    yield judge(
        TAKEN,
        assumed="the service reads a list in a private bucket, and fetches its signed URLs",
        observed=observed,
        contradicts=not last.landed,
        meaning="route sts-url-list does not work here: use cdn or sts-s3. Never make a list public: it holds signatures",
        details={"rows": len(last.rows), "landed": [name.partition("?")[0] for name in last.landed]},
    )
    if not last.landed:
        yield from (leave_out(subject, "no object came by the list") for subject in (NAMES, NO_MD5))
        return
    yield judge_names(last)
    yield judge_md5(facts)


def judge_names(facts: ListFacts) -> Observation:
    """A plain path reads the same decoded and encoded, and tells nothing; a hard one tells."""
    expected = {landing(url, naming) for url in facts.rows for naming in Naming}
    unknown = [name for name in facts.landed if name not in expected]
    hard = [url for url in facts.rows if unquote(urlsplit(url).path) != urlsplit(url).path]
    ways = {naming for url in hard for naming in Naming if landing(url, naming) in facts.landed}
    if not unknown and not ways:
        why = "the names that came are plain: they tell nothing"
        return note(NAMES, why, "--probe-source-write lets the probe make a key with a space and a percent sign")
    way = "unknown" if unknown else min(ways).value
    shown = [f"{name.partition('?')[0]}{'?…' if '?' in name else ''}" for name in unknown or facts.landed]
    return judge(
        NAMES,
        assumed="an object is called <host>/<path of its URL>, decoded or encoded, without the query",
        observed=f"{way}: {', '.join(shown)}",
        contradicts=bool(unknown),
        meaning="objects cannot be given their own names: route sts-url-list is refused from now on; use route cdn or sts-s3",
        answers={"url_list_names": way},
    )


def judge_md5(facts: ListFacts) -> Observation:
    """facts: of the list with a row without MD5."""
    came = {
        has_md5 for url, has_md5 in facts.rows.items() if any(naming_by([name.partition("?")[0]], [url]) for name in facts.landed)
    }
    observed = "it came" if False in came else "it did not come" if facts.landed else "nothing of its list came"
    return judge(
        NO_MD5,
        assumed="a row without an MD5 is transferred, too",
        observed=observed,
        contradicts=False not in came,
        meaning="objects that were uploaded in parts cannot travel by route sts-url-list: give them route cdn or sts-s3",
        answers={"url_list_md5": "optional" if False in came else "required"},
    )
