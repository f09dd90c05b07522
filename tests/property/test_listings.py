"""The two listings beside each other, range by range and page by page, against plain arithmetic on sets."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.keys import KeyMapping, encoded
from cdn_worker.domain.overwrite import Replace
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.listing.diff import Ground, Planned, Planner
from cdn_worker.object_copy.commands import Task
from cdn_worker.storage.gcs import GcsSink
from cdn_worker.storage.s3 import S3Source
from tests.simulation.buckets import GCS, S3, SINK, SOURCE, Buckets, etag_of
from tests.simulation.chance import Chance
from tests.unit.test_planning import Turns
from tools.bench.copying.synthetic import Synthetic
from tools.emulators.gcs.objects import Attributes

names = st.text(st.sampled_from("ab/~é日 \U0001f600"), min_size=1, max_size=4).map("in/{}".format)
kinds = st.sampled_from(["missing", "equal", "recorded", "another source's", "foreign"])


class BothSides(Turns):
    """Answers from simulated buckets."""

    def __init__(self, buckets: Buckets) -> None:
        super().__init__(Synthetic(0, 0))
        self._buckets = buckets

    def _answer(self, request: Request) -> Answer:
        return self._buckets.answer(request)


@settings(deadline=None)
@given(
    source=st.dictionaries(names, kinds, max_size=30),
    surplus=st.sets(names, max_size=6),
    replace=st.sampled_from(Replace),
    page=st.integers(1, 7),
    lanes=st.sampled_from([1, 3]),
)
def test_what_is_planned_is_what_the_sets_say(
    source: dict[str, str], surplus: set[str], replace: Replace, page: int, lanes: int
) -> None:
    buckets = Buckets(Chance(random.Random(0), set), page_keys=page)
    for key, kind in source.items():
        body = buckets.objects[key] = key.encode()
        other = b"other" if kind != "equal" else body
        recorded = {"x-goog-source-etag": etag_of(body) if kind == "equal" else "e" * 32} if kind != "foreign" else {}
        if kind in ("recorded", "another source's"):
            whose = SOURCE if kind == "recorded" else "another-bucket"
            recorded["x-goog-source-uri"] = f"s3://{whose}/{encoded(key)}"
        if kind != "missing":
            buckets.store.put(SINK, key.replace("in/", "out/", 1), other, Attributes(metadata=recorded))
    for key in surplus - set(source):
        buckets.store.put(SINK, key.replace("in/", "out/", 1), b"nobody's", Attributes())
    bucket = S3Source(S3, SOURCE, "us-east-1")
    mapping = KeyMapping(source_root="in/", sink_root="out/")
    ground = Ground(
        source=bucket, bucket=bucket, sink=GcsSink(GCS, SINK), mapping=mapping, prefix="in/", replace=replace, keys_max=page
    )
    turns, found = BothSides(buckets), list[Planned]()
    planner = Planner(turns, ground, deliver=found.extend, full=lambda: False, lanes=lanes)
    planner.begin()
    turns.run()
    assert planner.error is None
    assert Counter(one.key for one in found) == Counter(list(source)), "each key once, and no other"

    def of(kind: str) -> set[str]:
        return {key for key, one in source.items() if one == kind}

    skipped = set() if replace is Replace.ALWAYS else of("equal")
    others = of("another source's") | of("foreign")
    kept = {Replace.NEVER: of("recorded") | others, Replace.RECORDED: others}.get(replace, set())
    assert {one.key for one in found if isinstance(one, KeyVerdict) and one.verdict is Verdict.SKIPPED} == skipped
    assert {one.key for one in found if isinstance(one, KeyVerdict) and one.error == "exists"} == kept
    tasks = {one.key: one.generation for one in found if isinstance(one, Task)}
    assert set(tasks) == set(source) - skipped - kept
    there = buckets.store.bucket(SINK).objects
    for key, generation in tasks.items():
        stored = there.get(key.replace("in/", "out/", 1))
        assert generation == (0 if stored is None else stored.generation), "just what was seen may be replaced"
