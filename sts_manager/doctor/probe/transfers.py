"""One small object end to end by the Storage Transfer Service; manifests with a name that is missing, and with a folder's."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cdn_worker.domain.metadata import SOURCE_ETAG, decode_words
from sts_manager.doctor.finding import Level
from sts_manager.doctor.google import GoogleSide
from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.creates import CreateFacts, order
from sts_manager.doctor.probe.observation import Observation, judge, leave_out, note, unsettle
from sts_manager.doctor.probe.operations import (
    JobStart,
    OperationTrace,
    SpecFacts,
    begin,
    compare_specs,
    create_again,
    delete,
    run_again,
    watch,
)
from sts_manager.doctor.probe.source import CACHE_CONTROL, CONTENT_TYPE, OWNER, TEAM, SourceObject, SourceView
from sts_manager.doctor.probe.storage import Answer
from sts_manager.doctor.probe.transfer_log import LOG, probe_log
from sts_manager.domain.model import OperationSnapshot, OperationState
from sts_manager.domain.names import OperationName
from sts_manager.routes.sts.spec import TransferSettings, transfer_job

SPEC, NAME, SECOND = "transfer: spec as returned", "transfer: operation's name", "transfer: second run"
STATES, RESULT, COPY, CARRIED = "transfer: states", "transfer: result", "transfer: the copy", "transfer: metadata"
RIGHTS, DELETED, REUSED = "transfer: agent's rights", "transfer: deleted job", "transfer: deleted name"
MANIFEST, FOLDER = "manifest: a missing name", "manifest: a folder's name"
FIRST = (SPEC, NAME, SECOND, STATES, RESULT, COPY, CARRIED, RIGHTS, DELETED, REUSED)
MISSING = "no-such-object"
OLDER = b"an older object, which the transfer of a probe is to replace\n"
MEND = "the first prefix would meet the same: mend what the message names, then run the probe again"


def probe_transfers(context: Context, view: SourceView) -> Iterator[Observation]:
    settings = context.transfer_settings
    sample = view.transferable()
    if settings is None or sample is None:
        why = context.transfer_fault or f"no small object that no other key begins with among {len(view.objects):,} listed"
        for subject in (*FIRST, MANIFEST, FOLDER, LOG):
            yield leave_out(subject, why)
        return
    target = f"{context.place('transfer').path}{sample.key[len(view.root) :]}"
    planted = settings.overwrite_when != "NEVER" and _plant(context, target)
    begun = begin(
        context, transfer_job(order(context, "transfer", sample.key[len(view.root) :]), _to(settings, context, "transfer"))
    )
    if begun.refused is not None:
        why = f"the job could not be begun: {begun.refused.code}: {begun.refused.message}"
        for subject in FIRST:
            yield replace(unsettle(subject, why, MEND), answers={"transfer": "failed"})
        return
    assert begun.returned is not None
    yield judge_spec(compare_specs(begun.job.transfer_spec, begun.returned.transfer_spec))
    yield judge_name(begun)
    if begun.operation is None:
        return
    second = run_again(context, begun.job.name)
    others = dict(_begin_manifests(context, settings, view, sample))
    names = [run.operation for run in (begun, *others.values()) if run.operation is not None]
    seen = watch(context, [*names, *([second] if isinstance(second, OperationName) else [])])
    first = seen[begun.operation]
    yield judge_second(second, first)
    yield from judge_watched(first)
    yield from _probe_copy(context, target, sample, first, planted=planted, described=sample.key == view.described)
    yield from _judge_manifests(context, view, others, seen)
    yield judge_deleted(delete(context, begun.job.name))
    yield judge_reused(create_again(context, begun.job))
    for run in others.values():
        context.clients.transfers.delete(run.job.name)


def _to(settings: TransferSettings, context: Context, folder: str) -> TransferSettings:
    return replace(settings, sink=context.place(folder))


def _plant(context: Context, name: str) -> bool:
    """Put an older object where the transfer is to write: replacing it takes one right more (storage.objects.delete)."""
    headers = {"content-type": "text/plain", "x-goog-if-generation-match": "0"}
    return context.clients.storage.put(context.bucket, name, OLDER, headers).status == 200


def _begin_manifests(
    context: Context, settings: TransferSettings, view: SourceView, sample: SourceObject
) -> Iterator[tuple[str, JobStart]]:
    """A job for each manifest that can be made; a refused one is told later by what was refused."""
    marker = view.marker()
    rows = {"manifest": [sample.key, f"{view.root}{context.record.path}{MISSING}"], "folder": [marker.key] if marker else []}
    for role, keys in rows.items():
        if keys:
            location = _write_manifest(context, role, [key[len(view.root) :] for key in keys])
            yield role, begin(context, transfer_job(order(context, role, "all/"), _to(settings, context, role), location))


def _write_manifest(context: Context, role: str, names: list[str]) -> str:
    """As the lister writes it: CSV, names relative to the source's path."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([row] for row in names)
    name = context.name(f"{role}.csv")
    headers = {"content-type": "text/csv", "x-goog-if-generation-match": "0"}
    context.clients.storage.put(context.bucket, name, text.getvalue().encode(), headers)
    return f"gs://{context.bucket}/{name}"


def _probe_copy(
    context: Context, name: str, sample: SourceObject, first: OperationTrace, *, planted: bool, described: bool
) -> Iterator[Observation]:
    """name: of the copy; planted: an older object had that name before; described: the sample has the probe's own metadata."""
    if first.snapshot is None or first.snapshot.state is not OperationState.SUCCESS:
        for subject in (COPY, CARRIED, RIGHTS):
            yield unsettle(subject, "the transfer did not succeed", MEND)
        return
    stored = context.clients.storage.get(context.bucket, name)
    copy = judge_copy(stored, sample, from_s3=context.from_s3)
    yield copy
    if described:
        yield judge_carried(stored)
    else:
        yield leave_out(CARRIED, "it takes an object of known metadata: --probe-source-write lets the probe write one to S3")
    side = GoogleSide(context.patient, context.clients.transfers)
    try:
        doubts = [
            finding.says
            for finding in side.api()
            if finding.level in (Level.WARN, Level.FAIL) and finding.check.startswith("agent's roles")
        ]
    finally:
        side.close()
    yield judge_rights(doubts, context.bucket, replaced=planted and not copy.contradicts)


def _judge_manifests(
    context: Context, view: SourceView, begun: Mapping[str, JobStart], seen: Mapping[OperationName, OperationTrace]
) -> Iterator[Observation]:
    for role, subject in (("manifest", MANIFEST), ("folder", FOLDER)):
        run = begun.get(role)
        if run is None:
            why = "no folder's marker with nothing under it is at hand; --probe-source-write lets the probe make one"
            yield leave_out(subject, why)
        elif run.operation is None:
            why = run.malformed if run.refused is None else f"{run.refused.code}: {run.refused.message}"
            yield unsettle(subject, why)
        elif subject == MANIFEST:
            yield judge_manifest(seen[run.operation])
        else:
            marker = view.marker()
            assert marker is not None
            yield judge_folder(seen[run.operation], _names_under(context, "folder"), marker.key[len(view.root) :])
    operation = begun["manifest"].operation if "manifest" in begun else None
    settings = context.transfer_settings
    if settings is None or not settings.log_failures:
        yield leave_out(LOG, "--sts-log-failures is off")
    elif operation is None or (watched := seen[operation]).snapshot is None or not watched.ended:
        yield unsettle(LOG, "the transfer that was to log a failure did not end")
    elif not watched.snapshot.counters.objects_failed:
        yield unsettle(LOG, "no object failed, so nothing was to be logged", "see the manifest's row")
    else:
        yield probe_log(context, operation)


def _names_under(context: Context, folder: str) -> list[str]:
    path = context.place(folder).path
    pages = context.clients.storage.list_pages(context.bucket, path, fields="items(name),nextPageToken")
    return [item["name"][len(path) :] for page in pages for item in page.get("items", ())]


def judge_spec(facts: SpecFacts) -> Observation:
    changes = [f"{path}: sent {ours!r}, returned {theirs!r}" for path, (ours, theirs) in facts.differing.items()]
    details = {"differing": {path: list(pair) for path, pair in facts.differing.items()}}
    if changes and not facts.relied_on:
        meaning = "these fields are not compared when a job is taken over"
        return note(SPEC, "; ".join(changes), meaning, assumed="a job's spec comes back as it was sent", details=details)
    return judge(
        SPEC,
        assumed="a job's spec comes back as it was sent (but for keys)",
        observed="; ".join(changes) or "every field is the same",
        contradicts=bool(facts.relied_on),
        meaning=f"after a crash the daemon does not know its own job again ({', '.join(facts.relied_on)}): "
        "SPEC_DIFFERS; `retry` such prefixes",
        details=details,
    )


def judge_name(begun: JobStart) -> Observation:
    return judge(
        NAME,
        assumed="run answers with an operation called transferOperations/…",
        observed=begun.malformed or str(begun.operation),
        contradicts=bool(begun.malformed),
        meaning="no transfer can be watched",
    )


def judge_second(second: CreateFacts | OperationName, first: OperationTrace) -> Observation:
    """second: the refusal of a run while the job's operation is active, or the operation that it made."""
    assumed = "a second run while an operation is active is refused, and the daemon then looks at that operation"
    if isinstance(second, OperationName):
        if first.states and first.states[0] in ("SUCCESS", "FAILED"):
            return note(SECOND, "the first operation had ended before it could be looked at", assumed=assumed)
        return judge(
            SECOND,
            assumed=assumed,
            observed=f"it was accepted: {second}",
            contradicts=True,
            meaning="two runs of one job side by side: a repeated `run` costs twice",
        )
    looks = second.handled.startswith("it asks again") or second.code == "ALREADY_EXISTS"
    return judge(
        SECOND,
        assumed=assumed,
        observed=f"{second.code} ({second.message})",
        contradicts=not looks,
        meaning=f"a `run` whose answer was lost is taken for a failure ({second.handled})",
        details={"code": second.code},
    )


def judge_watched(seen: OperationTrace) -> Iterator[Observation]:
    snapshot = seen.snapshot
    if snapshot is None or snapshot.active:
        progress = f"only {', '.join(seen.states)}" if seen.states else "nothing: it is not in the list of operations"
        yield unsettle(STATES, f"the operation did not end in time; seen: {progress}", "see it in the console")
        yield unsettle(RESULT, "the operation did not end in time", "see it in the console")
        return
    unknown = [state for state in seen.states if state not in OperationState.__members__]
    yield judge(
        STATES,
        assumed=f"states are among {', '.join(state.value for state in OperationState if state is not OperationState.UNKNOWN)}",
        observed=" → ".join(seen.states),
        contradicts=bool(unknown),
        meaning="a state that this program does not know is left as it is: its prefix never ends",
    )
    counters = snapshot.counters
    fine = snapshot.state is OperationState.SUCCESS and counters.objects_failed == 0
    yield judge(
        RESULT,
        assumed="one object found, one copied (or skipped), SUCCESS",
        observed=f"{snapshot.raw_state}: {_describe_counters(snapshot)}{_describe_errors(snapshot)}",
        contradicts=not fine or counters.objects_copied + counters.objects_skipped != 1,
        meaning=MEND
        if not fine
        else "objects are not counted as this program counts them: prefixes may end in error or too early",
        answers={} if fine else {"transfer": "failed"},
        details=_keep_results(snapshot),
    )


def judge_copy(stored: Answer, sample: SourceObject, *, from_s3: bool) -> Observation:
    metadata = stored.json().get("metadata", {})
    there = stored.status == 200 and stored.json().get("size") == str(sample.size)
    etag = metadata.get(SOURCE_ETAG, "")
    observed = f"{'there' if there else f'answered {stored.status}'}, {SOURCE_ETAG} {etag or 'missing'}"
    wanted = etag.strip('"') == sample.etag
    if there and not from_s3:
        return note(COPY, observed, assumed="an object's name at the destination is its key under the source's path")
    return judge(
        COPY,
        assumed=f"the object has its key's name at the destination, and the ETag of S3 as {SOURCE_ETAG}",
        observed=observed,
        contradicts=not there or not wanted,
        meaning="the program's own comparisons do not recognise what the service copied"
        if there
        else "objects are not where this program looks for them",
        details={"metadata": metadata},
    )


def judge_carried(stored: Answer) -> Observation:
    """What the service brought of an object's metadata (its documentation, "Metadata preservation", says what it keeps).

    No document tells in which form it keeps a value that is not ASCII: as S3 shows it, an encoded word, is as good as decoded.
    """
    if stored.status != 200:
        return unsettle(CARRIED, stored.refusal())
    resource = stored.json()
    custom = resource.get("metadata", {})
    owner = custom.get("owner", "")
    came = (resource.get("cacheControl", ""), resource.get("contentType", ""), custom.get("team", ""))
    names, wanted = ("Cache-Control", "Content-Type", "user metadata team"), (CACHE_CONTROL, CONTENT_TYPE, TEAM)
    wrong = [
        f"{name} is {value!r}, not {right!r}" for name, value, right in zip(names, came, wanted, strict=True) if value != right
    ]
    form = "decoded" if owner == OWNER else "encoded" if decode_words(owner) == OWNER else "lost"
    assumed = "Cache-Control, Content-Type and user metadata travel with an object"
    observed = f"{'; '.join(wrong) or 'headers and ASCII came as they were'}; {OWNER!r} came as {owner!r}"
    details = {name: resource.get(name) for name in ("metadata", "cacheControl", "contentType")}
    answers = {"metadata_not_ascii": form}
    if form == "encoded" and not wrong:
        meaning = "values that are not ASCII come encoded by RFC 2047; routes cdn, sts-url-list and copy keep them decoded"
        return note(CARRIED, observed, meaning, assumed=assumed, answers=answers, details=details)
    return judge(
        CARRIED,
        assumed=assumed,
        observed=observed,
        contradicts=bool(wrong) or form == "lost",
        meaning="route sts-s3 loses or changes metadata: give prefixes that need it route cdn",
        answers=answers,
        details=details,
    )


def judge_rights(doubts: list[str], bucket: str, *, replaced: bool) -> Observation:
    """A transfer that succeeded has the rights that it needs, whatever policies show: `doctor` only doubts, and relies on none.

    doubts    what `doctor` says of the agent's roles
    replaced  the transfer replaced an older object, too
    """
    answers = {"transfer": "succeeded", "transfer_to": bucket, "transfer_replaced": "yes" if replaced else "no"}
    assumed = "the policies of bucket and project show the roles of the service's agent"
    did = f"the transfer succeeded{' and replaced an object' if replaced else ''}"
    if doubts:
        meaning = "its roles are granted where no policy shows them, as on a folder; `doctor` goes by this probe from now on"
        return note(RIGHTS, f"{did}; `doctor` says: {'; '.join(doubts)}", meaning, assumed=assumed, answers=answers)
    return judge(RIGHTS, assumed=assumed, observed=f"{did}; `doctor` sees its roles", contradicts=False, answers=answers)


def judge_deleted(status: str) -> Observation:
    return judge(
        DELETED,
        assumed="a deleted job is told as DELETED, or not found",
        observed=status,
        contradicts=status not in ("DELETED", "NOT_FOUND"),
        meaning="a job that was deleted is taken for one that lives",
    )


def judge_reused(facts: CreateFacts) -> Observation:
    if facts.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"):
        return unsettle(REUSED, f"{facts.code}: {facts.message}")
    return judge(
        REUSED,
        assumed="the name of a deleted job stays taken (ALREADY_EXISTS)",
        observed=facts.code or "a job of the same name was created",
        contradicts=facts.code != "ALREADY_EXISTS",
        meaning="a create that is repeated after somebody deleted the job transfers the prefix once more",
    )


def judge_manifest(seen: OperationTrace) -> Observation:
    """One of the two names is missing at the source."""
    snapshot = seen.snapshot
    if snapshot is None or snapshot.active:
        return unsettle(MANIFEST, f"the operation did not end in time; seen: {', '.join(seen.states) or 'nothing'}")
    counters = snapshot.counters
    there = counters.objects_copied + counters.objects_skipped
    return judge(
        MANIFEST,
        assumed="a name that is not there counts as failed, however the operation ends; the other one is copied",
        observed=f"{snapshot.raw_state}: {_describe_counters(snapshot)}{_describe_errors(snapshot)}",
        contradicts=counters.objects_failed != 1 or there != 1,
        meaning="a retry by manifest ends `done` although an object is missing"
        if not counters.objects_failed
        else "a retry by manifest does not bring the objects that are there",
        answers={"missing_object_ends": snapshot.raw_state},
        details=_keep_results(snapshot),
    )


def judge_folder(seen: OperationTrace, names: list[str], marker: str) -> Observation:
    """names: what came to the destination; marker: the name that ends in '/'."""
    snapshot = seen.snapshot
    if snapshot is None or snapshot.active:
        return unsettle(FOLDER, f"the operation did not end in time; seen: {', '.join(seen.states) or 'nothing'}")
    others = [name for name in names if name != marker]
    became = "copied" if marker in names else "failed" if snapshot.counters.objects_failed else "passed over"
    return judge(
        FOLDER,
        assumed="a name that ends in '/' stands for itself, or is refused: nothing else is copied by it",
        observed=f"{became}; {snapshot.raw_state}: {_describe_counters(snapshot)}{_describe_errors(snapshot)}",
        contradicts=bool(others),
        meaning=f"a folder's name brings what is under it, too: {others[:3]!r}",
        answers={"manifest_folders": became.replace(" ", "_")},
        details=_keep_results(snapshot),
    )


def _describe_counters(snapshot: OperationSnapshot) -> str:
    counters = snapshot.counters
    numbers = {
        "found": counters.objects_found,
        "skipped": counters.objects_skipped,
        "copied": counters.objects_copied,
        "failed": counters.objects_failed,
    }
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items())


def _describe_errors(snapshot: OperationSnapshot) -> str:
    errors = [f"{error.code} × {error.count:,} ({error.sample_details})" for error in snapshot.errors]
    return f"; {'; '.join(errors)}" if errors else ""


def _keep_results(snapshot: OperationSnapshot) -> dict[str, Any]:
    return {"operation": snapshot.results}
