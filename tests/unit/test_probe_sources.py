"""What a probe says of each answer of the CDN, S3, BigQuery and Monitoring, which objects it takes, and what it tells."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from cdn_worker.domain.signing import Digest
from sts_manager.doctor.probe import bigquery, cloudfront, monitoring, s3, uploads, url_lists
from sts_manager.doctor.probe.cdn_reader import CdnAnswer
from sts_manager.doctor.probe.consent import judge_bucket
from sts_manager.doctor.probe.observation import Observation, Outcome, Report, hide, judge, leave_out, note, unsettle
from sts_manager.doctor.probe.record import ProbeRecord, id_in, make_id, time_in
from sts_manager.doctor.probe.source import BODY, OWNER, TEAM, SourceObject, SourceView
from sts_manager.domain.errors import Fatal
from sts_manager.domain.service_answers import ServiceAnswers

AGREES, CONTRADICTS, NOTED, UNSETTLED = Outcome.AGREES, Outcome.CONTRADICTS, Outcome.NOTED, Outcome.UNSETTLED
WORD = f"=?UTF-8?B?{base64.b64encode(OWNER.encode()).decode()}?="

# URL lists

PLAIN, HARD = "https://d.net/p/1", "https://d.net/p/a%20b%2520c"


def observe_list(*landed: str, state: str = "SUCCESS", errors: tuple[str, ...] = ()) -> dict[str, Observation]:
    facts = url_lists.ListFacts(state=state, errors=errors, landed=landed, rows={PLAIN: False, HARD: True})
    return {one.subject: one for one in url_lists.judge_list(facts)}


@pytest.mark.parametrize(
    ("landed", "names", "way", "md5"),
    [
        (("d.net/p/1", "d.net/p/a b%20c"), AGREES, "decoded", AGREES),
        (("d.net/p/1", "d.net/p/a%20b%2520c"), AGREES, "encoded", AGREES),
        (("d.net/p/1?Policy=x", "d.net/p/a b%20c?Policy=x"), CONTRADICTS, "unknown", AGREES),
        (("p/1", "p/a b%20c"), CONTRADICTS, "unknown", CONTRADICTS),
        (("d.net/p/a b%20c",), AGREES, "decoded", CONTRADICTS),
        (("d.net/p/1",), NOTED, None, AGREES),
    ],
)
def test_names_of_a_url_list(landed: tuple[str, ...], names: Outcome, way: str | None, md5: Outcome) -> None:
    found = observe_list(*landed)
    assert found[url_lists.TAKEN].outcome is AGREES
    assert (found[url_lists.NAMES].outcome, found[url_lists.NAMES].answers.get("url_list_names")) == (names, way)
    assert found[url_lists.NO_MD5].outcome is md5
    assert "Policy=" not in json.dumps([one.observed for one in found.values()]).replace("Policy=…", "")


def test_a_url_list_that_is_not_taken() -> None:
    found = observe_list(state="FAILED", errors=("PERMISSION_DENIED × 1 (the list cannot be read)",))
    assert found[url_lists.TAKEN].outcome is CONTRADICTS
    assert "the list cannot be read" in found[url_lists.TAKEN].observed
    assert found[url_lists.NAMES].outcome is Outcome.LEFT_OUT


def test_a_list_that_is_refused_for_its_row_without_md5() -> None:
    refused = url_lists.ListFacts(state="FAILED", errors=("a row has no MD5",), landed=(), rows={PLAIN: False, HARD: True})
    whole = url_lists.ListFacts(state="SUCCESS", errors=(), landed=("d.net/p/a b%20c",), rows={HARD: True})
    found = {one.subject: one for one in url_lists.judge_list(refused, whole)}
    outcomes = [found[subject].outcome for subject in (url_lists.TAKEN, url_lists.NAMES, url_lists.NO_MD5)]
    assert outcomes == [AGREES, AGREES, CONTRADICTS]
    assert "a row has no MD5" in found[url_lists.TAKEN].observed
    assert found[url_lists.NO_MD5].answers == {"url_list_md5": "required"}
    late = url_lists.ListFacts(state="IN_PROGRESS", errors=(), landed=(), rows={HARD: True}, ended=False)
    assert {one.outcome for one in url_lists.judge_list(refused, late)} == {UNSETTLED}


# CloudFront

FOUND = SourceObject(key="a+b", size=23, etag="e")


def reads(status: int, **headers: str) -> CdnAnswer:
    return CdnAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()})


def test_signatures() -> None:
    right, refused = reads(200, etag='"e"'), reads(403)
    assert cloudfront.judge_signature(Digest.SHA1, right, FOUND, chosen=True).outcome is AGREES
    assert cloudfront.judge_signature(Digest.SHA1, refused, FOUND, chosen=True).outcome is CONTRADICTS
    assert cloudfront.judge_signature(Digest.SHA1, reads(200, etag='"other"'), FOUND, chosen=True).outcome is CONTRADICTS
    other = cloudfront.judge_signature(Digest.SHA256, refused, FOUND, chosen=False)
    assert (other.outcome, "leave --cdn-digest" in other.meaning) == (NOTED, True)
    assert cloudfront.judge_signature(Digest.SHA1, reads(503), FOUND, chosen=True).outcome is UNSETTLED


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reads(200, etag='"e"'), AGREES),
        (reads(404), CONTRADICTS),
        (reads(200, etag='"of another object"'), CONTRADICTS),
        (reads(429), UNSETTLED),
    ],
)
def test_hard_names(answer: CdnAnswer, outcome: Outcome) -> None:
    assert cloudfront.judge_name("a plus", answer, FOUND).outcome is outcome


def test_preconditions_heads_and_ranges() -> None:
    assert [cloudfront.judge_match(reads(one)).meaning == "" for one in (412, 200)] == [True, False]
    assert cloudfront.judge_head(reads(200, content_length="23"), FOUND).outcome is AGREES
    assert cloudfront.judge_head(reads(200), FOUND).outcome is CONTRADICTS
    assert cloudfront.judge_head(reads(403), FOUND).outcome is CONTRADICTS
    assert cloudfront.judge_range(reads(206, content_range="bytes 0-0/23"), FOUND).outcome is AGREES
    assert cloudfront.judge_range(reads(200, content_length="23"), FOUND).outcome is CONTRADICTS
    assert cloudfront.judge_range(reads(500), FOUND).outcome is UNSETTLED


# S3

RESTORED = {"x-amz-restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2026 00:00:00 GMT"'}


@pytest.mark.parametrize(
    ("name", "restore", "head", "outcome"),
    [
        ("STANDARD", "", {}, AGREES),
        ("STANDARD", "", RESTORED, CONTRADICTS),
        ("GLACIER", "", {}, NOTED),
        ("GLACIER", "in progress", {"x-amz-restore": 'ongoing-request="true"'}, NOTED),
        ("GLACIER", "until 2026-12-21", RESTORED, AGREES),
        ("DEEP_ARCHIVE", "", RESTORED, CONTRADICTS),
        ("INTELLIGENT_TIERING", "", {}, AGREES),
        ("INTELLIGENT_TIERING", "", {"x-amz-archive-status": "ARCHIVE_ACCESS"}, NOTED),
    ],
)
def test_storage_classes(name: str, restore: str, head: dict[str, str], outcome: Outcome) -> None:
    assert (
        s3.judge_class(name, SourceObject(key="k", size=1, etag="e", storage_class=name, restore=restore), head).outcome
        is outcome
    )


def test_metadata_that_is_not_ascii() -> None:
    team = {"x-amz-meta-team": TEAM}
    assert s3.judge_metadata(team | {"x-amz-meta-owner": OWNER}).outcome is AGREES
    word = s3.judge_metadata(team | {"x-amz-meta-owner": WORD})
    assert (word.outcome, "as an encoded word" in word.observed) == (AGREES, True)
    wrong = ["Zo? ??", OWNER.encode().decode("latin-1"), WORD.replace("UTF-8", "ISO-8859-1"), WORD[:-4], ""]
    assert {s3.judge_metadata(team | {"x-amz-meta-owner": one}).outcome for one in wrong} == {CONTRADICTS}
    assert s3.judge_metadata(team | {"x-amz-missing-meta": "1"}).outcome is CONTRADICTS
    assert s3.judge_metadata({"x-amz-meta-owner": OWNER, "x-amz-meta-team": "data"}).outcome is CONTRADICTS


def test_who_pays() -> None:
    assert [s3.judge_payer(one).outcome for one in ("BucketOwner", "Requester", "")] == [AGREES, CONTRADICTS, UNSETTLED]


# BigQuery and Monitoring


def test_bigquery() -> None:
    assert [bigquery.judge_merge(one).outcome for one in (1, 0)] == [AGREES, CONTRADICTS]
    rows = [[{"key": "one", "value": "2"}], [], [{"key": "one", "value": "1"}]]
    assert [bigquery.judge_script(one).outcome for one in rows] == [AGREES, NOTED, CONTRADICTS]
    ended = bigquery.ScriptEnd()
    known, unknown = bigquery.ScriptEnd("again", "Could not serialize"), bigquery.ScriptEnd("broken", "Transaction is aborted")
    assert bigquery.judge_conflict([ended, ended]).outcome is NOTED
    assert bigquery.judge_conflict([ended, known]).outcome is AGREES
    assert bigquery.judge_conflict([known, unknown]).outcome is CONTRADICTS


def test_points_and_policies() -> None:
    taken = monitoring.PointsAnswer(location="global", first="", second="")
    late = monitoring.PointsAnswer(location="europe-west1", first="", second="more frequently than the maximum")
    assert [monitoring.judge_points(one).outcome for one in (taken, late)] == [AGREES, CONTRADICTS]
    assert monitoring.judge_region(late).answers == {"monitoring_location": "refused", "monitoring_location_of": "europe-west1"}
    made = {"stalled": "created"}
    assert monitoring.judge_policies(made, {"stalled": "unchanged"}).outcome is AGREES
    changed = monitoring.judge_policies(made, {"stalled": "updated (conditions)"})
    assert (changed.outcome, "stalled: updated (conditions)" in changed.observed) == (CONTRADICTS, True)


# The source


def view(*keys: str, whole: bool = True, size: int = 5) -> SourceView:
    objects = tuple(SourceObject(key=key, size=0 if key.endswith("/") else size, etag="e") for key in keys)
    return SourceView(objects=objects, root="", whole=whole)


def test_an_object_that_others_begin_with_is_never_named_by_a_prefix() -> None:
    chosen = view("a", "a/b", "a0", "b").transferable()
    assert chosen is not None
    assert chosen.key in ("a/b", "a0", "b")
    assert view("a", "a/b", "a/b/c", whole=False).transferable() is None, "nobody knows what comes after the last one listed"
    assert view("a\nb").transferable() is None
    assert view("big", size=1 << 30).transferable() is None


def test_a_folder_with_something_under_it_is_never_put_into_a_manifest() -> None:
    assert view("f/", "f/x").marker() is None
    assert view("f/", whole=False).marker() is None
    found = view("f/", "g").marker()
    assert found is not None
    assert found.key == "f/"


def test_archived_objects_are_not_read() -> None:
    cold = SourceView(objects=(SourceObject(key="k", size=5, etag="e", storage_class="GLACIER"),), root="", whole=True)
    assert (cold.transferable(), list(cold.small())) == (None, [])


def test_the_object_with_metadata_is_transferred_rather_than_another() -> None:
    objects = tuple(SourceObject(key=key, size=size, etag="e") for key, size in (("a", 1), ("b/metadata", 9), ("c", 1)))
    chosen = SourceView(objects=objects, root="", whole=True, described="b/metadata").transferable()
    assert chosen == objects[1]


def test_a_restored_object_stands_for_its_class() -> None:
    cold = SourceObject(key="a", size=5, etag="e", storage_class="GLACIER")
    warm = SourceObject(key="b", size=5, etag="e", storage_class="GLACIER", restore="until 2026-12-21")
    assert SourceView(objects=(cold, warm), root="", whole=True).of_each_class() == {"GLACIER": warm}


# What is told


@pytest.mark.parametrize(
    ("resource", "told"),
    [
        ({"retentionPolicy": {"retentionPeriod": "86400"}}, "a retention policy of 86,400 s"),
        ({"retentionPolicy": {"retentionPeriod": "60", "isLocked": True}}, "and is locked"),
        ({"defaultEventBasedHold": True}, "event-based hold"),
    ],
)
def test_a_bucket_that_keeps_what_is_written_is_refused(resource: dict[str, Any], told: str) -> None:
    with pytest.raises(Fatal, match=told):
        judge_bucket("b", resource)


def test_a_bucket_that_keeps_nothing_is_fit() -> None:
    soft = {"softDeletePolicy": {"retentionDurationSeconds": "604800"}, "hierarchicalNamespace": {"enabled": True}}
    found = judge_bucket("b", {"retentionPolicy": {"retentionPeriod": "0"}, **soft, "encryption": {"defaultKmsKeyName": "k"}})
    assert (found.soft_delete_days, found.folders, found.kms_key) == (7, True, "k")


def test_secrets_are_hidden() -> None:
    url = "https://d.net/k?Policy=abc&Signature=xyz~&Key-Pair-Id=K1"
    text = f"GET {url} failed; Authorization: Bearer ya29.abcdefghijklmnopqrst; upload_id=ABC"
    shown = hide(text)
    for secret in ("abc&", "xyz~", "K1", "ya29", "ABC"):
        assert secret not in shown
    assert hide("longer than that", 9) == "longer t…"
    assert hide("the bucket's policy of 3 s, signature SHA1") == "the bucket's policy of 3 s, signature SHA1"


def test_a_report_hides_secrets_at_any_depth() -> None:
    deep = {"a": [{"url": "https://d.net/k?Signature=abc"}]}
    report = Report(
        probe="p",
        began_at="b",
        version="v",
        project="p",
        source="s",
        destination="d",
        observations=[note("x", "https://d.net/?Signature=abc", details=deep)],
    )
    assert "abc" not in report.text()


@pytest.mark.parametrize(
    ("make", "left", "failed"),
    [
        (lambda: judge("x", assumed="a", observed="o", contradicts=False), (), False),
        (lambda: judge("x", assumed="a", observed="o", contradicts=True), (), True),
        (lambda: note("x", "o"), (), False),
        (lambda: leave_out("x", "o"), (), False),
        (lambda: unsettle("x", "o"), (), True),
        (lambda: note("x", "o"), ("an object",), True),
    ],
)
def test_what_makes_a_probe_fail(make: Callable[[], Observation], left: tuple[str, ...], failed: bool) -> None:
    report = Report(
        probe="p", began_at="b", version="v", project="p", source="s", destination="d", observations=[make()], left_behind=left
    )
    assert report.failed is failed


def test_names_of_a_probe_are_legal_and_tell_its_time() -> None:
    at = datetime(2026, 11, 3, 10, 15, 7, tzinfo=UTC)
    probe = make_id(at, "0a1b2c")
    record = ProbeRecord(
        id=probe, began_at=at.isoformat(), project="p", destination="gs://b", source="s3://s/x/", dataset="p.d", monitoring="m"
    )
    assert time_in(probe) == at
    assert id_in(f"{record.path}x/y") == probe
    assert id_in(".sts-manager/stsm-0badcafe/in/") is None
    assert all(len(name) < 128 for name in record.jobs)
    assert len(set(record.jobs)) == len(record.jobs) == 8
    assert record.table == "p.d.sts_manager_probe_20261103t101507_0a1b2c"
    assert record.source_path == f"s3://s/x/.sts-manager/probe-{probe}/"
    assert all(len(one.key) <= 63 for one in monitoring.probe_alerts(record))
    with pytest.raises(ValueError, match="no id"):
        ProbeRecord(id="../x", began_at=at.isoformat(), project="p", destination="gs://b")


def test_bodies_prove_themselves() -> None:
    assert BODY == uploads.BODY


# What is heeded


def answers(project: str = "p", destination: str = "gs://b", **more: str) -> ServiceAnswers:
    return ServiceAnswers(probe="x", at=datetime(2026, 11, 3, tzinfo=UTC), project=project, destination=destination, answers=more)


def test_a_later_probe_replaces_only_what_it_looked_at() -> None:
    first = answers(url_list_names="unknown", transfer="succeeded", transfer_to="b")
    second = first.renew(answers(transfer="failed"))
    assert second.names_unusable
    assert not second.transfer_succeeded("p", "b")
    assert first.renew(answers(destination="gs://other")).answers == {}


def test_what_is_heeded_is_heeded_of_its_own_place_only() -> None:
    known = answers(transfer="succeeded", transfer_to="b", monitoring_location="refused", monitoring_location_of="eu-x1")
    assert known.transfer_succeeded("p", "b")
    assert not known.transfer_succeeded("q", "b")
    assert not known.transfer_succeeded("p", "c")
    assert (known.location("eu-x1"), known.location("us-x1")) == ("global", "us-x1")
    assert not known.names_unusable
