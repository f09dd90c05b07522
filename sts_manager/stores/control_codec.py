"""The texts of the control table: hold, breaker and the daemon's last report as JSON, the same in every store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sts_manager.domain.model import Breaker, Hold, Limit
from sts_manager.domain.names import Prefix
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.ports import Control, PassReport, QuotaUse, Sample


def control_of(found: Mapping[str, str]) -> Control:
    """What the rows of the control table say together."""
    return Control(
        migration=found["migration"],
        source=found.get("source", ""),
        sink=found.get("sink", ""),
        hold=hold_of(found["hold"]) if "hold" in found else None,
        breaker=breaker_of(found["breaker"]) if "breaker" in found else None,
        report=report_of(found["report"]) if "report" in found else None,
        ledger=found.get("ledger", ""),
        answers=parse_answers(found["answers"]) if "answers" in found else None,
    )


def hold_text(hold: Hold) -> str:
    return json.dumps({"by": hold.by, "at": hold.at.isoformat(), "reason": hold.reason})


def hold_of(text: str) -> Hold:
    value = json.loads(text)
    return Hold(by=value["by"], at=_time(value["at"]), reason=value["reason"])


def write_answers(answers: ServiceAnswers) -> str:
    return json.dumps(
        {
            "probe": answers.probe,
            "at": answers.at.isoformat(),
            "project": answers.project,
            "destination": answers.destination,
            "answers": dict(answers.answers),
        }
    )


def parse_answers(text: str) -> ServiceAnswers:
    value = json.loads(text)
    names = ("probe", "project", "destination", "answers")
    return ServiceAnswers(at=_time(value["at"]), **{name: value[name] for name in names})


def breaker_text(breaker: Breaker) -> str:
    return json.dumps(
        {
            "code": breaker.code,
            "message": breaker.message,
            "opened_at": breaker.opened_at.isoformat(),
            "probe_at": breaker.probe_at.isoformat(),
            "probes": breaker.probes,
            "probe": breaker.probe,
            "limit": breaker.limit,
        }
    )


def breaker_of(text: str) -> Breaker:
    value = json.loads(text)
    return Breaker(
        code=value["code"],
        message=value["message"],
        opened_at=_time(value["opened_at"]),
        probe_at=_time(value["probe_at"]),
        probes=value["probes"],
        probe=None if value["probe"] is None else Prefix(value["probe"]),
        limit=Limit(value["limit"]) if value.get("limit") else None,
    )


def report_text(report: PassReport) -> str:
    return json.dumps(
        {
            "at": report.at.isoformat(),
            "interval_s": report.interval_s,
            "running": report.running,
            "stalled": report.stalled,
            "blocked": report.blocked,
            "degraded": report.degraded,
            "samples": [
                [sample.at.isoformat(), sample.done, sample.bytes_copied, sample.objects_copied] for sample in report.samples
            ],
            "quotas": [[one.project, one.kind, one.seconds, one.calls, one.most] for one in report.quotas],
            "creates": {project: dict(buckets) for project, buckets in report.creates.items()},
        }
    )


def report_of(text: str) -> PassReport:
    value: dict[str, Any] = json.loads(text)
    samples = tuple(
        Sample(at=_time(at), done=done, bytes_copied=copied, objects_copied=objects)
        for at, done, copied, objects in value.pop("samples")
    )
    quotas = tuple(
        QuotaUse(project=project, kind=kind, seconds=seconds, calls=calls, most=most)
        for project, kind, seconds, calls, most in value.pop("quotas", ())
    )
    creates = {
        project: {int(bucket): number for bucket, number in buckets.items()}
        for project, buckets in value.pop("creates", {}).items()
    }
    return PassReport(at=_time(value.pop("at")), samples=samples, quotas=quotas, creates=creates, **value)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
