"""Messages: what is written is read again, and nothing else is believed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn_worker.domain.overwrite import Replace
from cdn_worker.protocol.codec import decoded_report, decoded_task, encoded
from cdn_worker.protocol.messages import (
    KEYS_MAX,
    MESSAGE_BYTES_MAX,
    Child,
    CopyReport,
    CopyTask,
    Counts,
    Failure,
    FromNewer,
    Item,
    JobSpec,
    Ledgered,
    ListFailed,
    ListReport,
    ListTask,
    Parked,
    Refused,
    Trouble,
    child_of,
    undone,
)

SPEC = JobSpec(
    job="transferJobs/stsm-1-a1",
    prefix="in/p/",
    source_bucket="source",
    sink_bucket="sink",
    source_root="in/",
    sink_root="out/",
    replace=Replace.DIFFERENT,
    since="2026-11-21T03:00:00+00:00",
    storage_classes=("STANDARD", "STANDARD_IA"),
    kms_key="projects/p/locations/l/keyRings/r/cryptoKeys/k",
)
KEYS = ["in/p/a", "in/p/ü/日本語", "in/p/a\nb", 'in/p/ + % ? # \\ "', "in/p/../x", "in/p/\0", "in/p/" + "x" * 1019]
ITEMS = tuple(Item(key, index, f"etag-{index}", "2026-11-21T03:00:00.000Z", index % 2) for index, key in enumerate(KEYS))
COPY = CopyTask(spec=SPEC, shard="root", run="abc", sequence=3, items=ITEMS)
COUNTS = Counts(objects={"done": 2, "failed": 1}, bytes={"done": 7, "failed": 0}, verified={"md5": 2})
FAILURE = Failure(key=KEYS[2], size=3, etag="e", verdict="failed", error="forbidden", details="403")
LEDGERED = Ledgered(key=KEYS[1], size=3, etag="e", generation=7, crc32c="AAAAAA==", verified="md5", verdict="done")
TASKS = [
    COPY,
    ListTask(spec=SPEC),
    ListTask(spec=SPEC, shard=child_of("root", "abc", 0), after=KEYS[2], until=KEYS[1]),
    ListTask(spec=SPEC, keys=tuple(KEYS)),
    replace(COPY, spec=JobSpec(job="j", prefix="in/p/", source_bucket="abc", sink_bucket="def")),
]
REPORTS: list[Any] = [
    CopyReport(job="j", shard="s", run="r", sequence=0, counts=COUNTS, failures=(FAILURE,), objects=(LEDGERED,)),
    ListReport(
        job="j", shard="s", run="r", listed=9, listed_bytes=99, tasks=3, children=(Child(shard="c", after="", until=None),)
    ),
    ListFailed(job="j", shard="s", code="NOT_FOUND", why="no such bucket"),
    Parked(job="j", task="j/s/r/1", kind="copy", body=encoded(COPY).decode()),
    Trouble(job="j", code="UNREACHABLE", why="storage.example: it does not resolve"),
]
REPORTS += [replace(one, ledger="0badcafe", spec=SPEC.fingerprint) for one in REPORTS]


@pytest.mark.parametrize("task", TASKS, ids=lambda one: type(one).__name__)
def test_tasks_are_read_as_they_were_written(task: Any) -> None:
    assert decoded_task(encoded(task)) == task
    with pytest.raises(Refused, match="where a report should be") as refused:
        decoded_report(encoded(task))
    assert refused.value.job == task.spec.job


@pytest.mark.parametrize("report", REPORTS, ids=lambda one: type(one).__name__)
def test_reports_are_read_as_they_were_written(report: Any) -> None:
    assert decoded_report(encoded(report)) == report
    with pytest.raises(Refused, match="where a task should be"):
        decoded_task(encoded(report))


def test_a_task_of_fifty_keys_is_a_few_kilobytes() -> None:
    items = tuple(Item(f"in/p/{index:07}", 16384, "a" * 32, "2026-11-21T03:00:00.000Z") for index in range(50))
    assert 1024 < len(encoded(replace(COPY, items=items))) < 8192


def test_a_newer_message_is_told_from_a_broken_one() -> None:
    plain = json.loads(encoded(COPY)) | {"v": 2, "something": "new"}
    with pytest.raises(FromNewer, match="version 2") as newer:
        decoded_task(json.dumps(plain).encode())
    assert newer.value.job == SPEC.job


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(encoded(COPY)) | fields).encode()


def spec_changed(**fields: Any) -> bytes:
    plain = json.loads(encoded(COPY))
    return json.dumps(plain | {"spec": plain["spec"] | fields}).encode()


ITEM = ["in/p/a", 1, "e", "", 0]
HOSTILE = {
    "half a character": (encoded(COPY).replace(b'in/p/a"', b'in/p/\\ud800"', 1), "surrogate"),
    "empty": (b"", "not JSON"),
    "truncated": (encoded(COPY)[:-9], "not JSON"),
    "not UTF-8": (b"\xff\xfe\xfd", "not JSON"),
    "pickle": (b"\x80\x04\x95\x1d\x00\x00\x00", "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "large": (b"x" * (MESSAGE_BYTES_MAX + 1), "are the most"),
    "no version": (b"{}", "version is 'None'"),
    "version as text": (changed(v="1"), "version is '1'"),
    "version as true": (changed(v=True), "version is 'True'"),
    "unknown kind": (changed(kind="exec"), "'exec', which nobody knows"),
    "kind as list": (changed(kind=["copy"]), "nobody knows"),
    "no items": (changed(items=[]), "items are no list"),
    "too many": (changed(items=[ITEM] * (KEYS_MAX + 1)), "items are no list"),
    "a key twice": (changed(items=[ITEM, ITEM]), "stands in it twice"),
    "a short item": (changed(items=[["in/p/a"]]), "no list of 5"),
    "a foreign key": (changed(items=[["other/a", *ITEM[1:]]]), "not under 'in/p/'"),
    "a long key": (changed(items=[["in/p/" + "ü" * 600, *ITEM[1:]]]), "no key of at most"),
    "a negative size": (changed(items=[["in/p/a", -1, *ITEM[2:]]]), "no number"),
    "a size as text": (changed(items=[["in/p/a", "1", *ITEM[2:]]]), "no number"),
    "a size as true": (changed(items=[["in/p/a", True, *ITEM[2:]]]), "no number"),
    "a header in an ETag": (changed(items=[["in/p/a", 1, "e\r\nX-Evil: 1", "", 0]]), "will not do"),
    "a quote in an ETag": (changed(items=[["in/p/a", 1, 'e"', "", 0]]), "will not do"),
    "a header in a time": (changed(items=[["in/p/a", 1, "e", "x\r\ny: z", 0]]), "will not do"),
    "no run": (changed(run=None), "run 'None' is no name"),
    "a path as a bucket": (spec_changed(source_bucket="../x"), "no bucket's name"),
    "a URL as a bucket": (spec_changed(sink_bucket="evil.example/x"), "no bucket's name"),
    "an unknown field": (spec_changed(s3_endpoint="http://evil.example"), "'s3_endpoint', which nobody knows"),
    "a header in a class": (spec_changed(storage_class="A\r\nX: y"), "will not do"),
    "a strange replace": (spec_changed(replace="everything"), "everything"),
    "a number as a prefix": (spec_changed(prefix=3), "prefix is '3'"),
    "a prefix elsewhere": (spec_changed(prefix="other/", source_root="in/"), "not under 'in/'"),
    "a spec as text": (changed(spec="x"), "spec is no JSON object"),
    "a missing field": (
        json.dumps({"v": 1, "kind": "copy", "spec": json.loads(encoded(COPY))["spec"]}).encode(),
        "'items' is missing",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_message_is_refused_with_its_reason(case: str) -> None:
    body, why = HOSTILE[case]
    with pytest.raises(Refused, match=why):
        decoded_task(body)


def test_a_task_that_is_handed_back_is_of_a_queue_that_there_is() -> None:
    """What nobody knows where to publish again would be forgotten."""
    plain = json.loads(encoded(Parked(job="j", task="j/s/r/1", kind="copy", body="{}")))
    for kind in ("hugs", "", ["copy"]):
        with pytest.raises(Refused, match="one of list, copy, huge"):
            decoded_report(json.dumps(plain | {"of": kind}).encode())


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_otherwise(body: bytes) -> None:
    with pytest.raises(Refused):
        decoded_task(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda one: st.lists(one) | st.dictionaries(st.text(max_size=9), one),
)


@given(st.sampled_from([*TASKS, *REPORTS]), st.data())
def test_a_field_that_is_replaced_is_refused_or_read(message: Any, data: st.DataObject) -> None:
    plain = json.loads(encoded(message))
    plain[data.draw(st.sampled_from(sorted(plain)))] = data.draw(JSON)
    body = json.dumps(plain).encode()
    read = decoded_task if isinstance(message, (ListTask, CopyTask)) else decoded_report
    try:
        again = encoded(read(body))
    except Refused:
        return
    assert encoded(read(again)) == again


def test_a_task_that_came_to_nothing_fails_each_of_its_keys() -> None:
    report = undone(COPY, "poison", "workers died")
    assert [one.key for one in report.failures] == KEYS
    assert (report.counts.total, report.run, report.sequence) == (len(KEYS), "abc", 3)


def test_children_of_another_run_are_others() -> None:
    assert len({child_of("root", run, index) for run in ("a", "b") for index in (0, 1)}) == 4


@dataclass(frozen=True, kw_only=True)
class Newer(JobSpec):
    """Of a release that knows one thing more."""

    checksums: bool = False


def test_workers_of_a_newer_release_report_for_the_same_spec() -> None:
    """Else none of their reports would be counted until the daemon is as new as they are, and its jobs are over."""
    given = {name: getattr(SPEC, name) for name in JobSpec.__dataclass_fields__}
    assert Newer(**given).fingerprint == SPEC.fingerprint
    assert Newer(**given, checksums=True).fingerprint != SPEC.fingerprint


def test_a_report_says_for_which_ledger_it_is_and_of_which_spec() -> None:
    spec = replace(SPEC, ledger="0badcafe")
    assert spec.mark == {"ledger": "0badcafe", "spec": spec.fingerprint}
    assert undone(replace(COPY, spec=spec), "poison", "why").spec == spec.fingerprint
    others = [replace(spec, ledger="cafe"), replace(spec, prefix="in/p/x"), replace(spec, sink_bucket="other")]
    assert spec.fingerprint not in {one.fingerprint for one in others}
    assert replace(spec).fingerprint == spec.fingerprint
    for name in ("ledger", "spec"):
        hostile = json.dumps(json.loads(encoded(REPORTS[0])) | {name: "no id!"}).encode()
        with pytest.raises(Refused, match=f"{name} 'no id!' is no id"):
            decoded_report(hostile)
