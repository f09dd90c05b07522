"""The engine as a copier: reads its work from the command line, prints what it used as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

from cdn_worker.copier.scheduler import Copier
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.http.engine import Engine, Limits
from cdn_worker.object_copy.commands import Task, Way
from cdn_worker.storage.cdn import CdnSource
from cdn_worker.storage.gcs import GcsSink


def main(work: dict[str, Any]) -> dict[str, Any]:
    engine = Engine(Limits(ca_file=work["ca_file"], requests=work.get("requests", 512), http2=work.get("http2", False)))
    source = CdnSource(f"{work['origin']}/source/", KeyMapping(), None)
    way = Way(source=source, sink=GcsSink(work["origin"], "sink"))
    verdicts = dict.fromkeys(Verdict, 0)
    first_error: list[str] = []

    def ended(_task: Task, verdict: KeyVerdict) -> None:
        verdicts[verdict.verdict] += 1
        if verdict.error and not first_error:
            first_error.append(f"{verdict.key}: {verdict.error}: {verdict.details}")

    copier = Copier(engine, ended=ended)
    lane = copier.open(way)
    before, began = time.process_time(), time.perf_counter()
    climbed = 0
    for index in range(work["objects"]):
        lane.add(Task(f"{index // 1000:03}/object-{index:07}", work["size"], work["etag"], "2026-11-21T03:00:00.000Z"))
    copier.let_in()
    while not copier.idle:
        engine.turn()
        climbed = max(climbed, copier.climb.limit)
    used = {
        "cpu_s": time.process_time() - before,
        "wall_s": time.perf_counter() - began,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "done": verdicts[Verdict.DONE],
        "in_flight": climbed,
        "error": first_error[0] if first_error else "",
    }
    engine.close()
    return used


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
