"""When an alert policy fires, by the documented meaning of its conditions, over the points that the stage has stored.

PromQL conditions (Prometheus 2.44, as Cloud Monitoring evaluates it; alerting rules): the expression is evaluated every interval,
each series in its result is an alert, and fires once it was there for the duration. Of PromQL only what our policies say:
`(last_over_time(A[w]) > 0) unless count_over_time(B[v])`.

Absence conditions (Create metric-absence alerting policies): a series that had a point has none for the duration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from tools.emulators.monitoring.policies import promql_name
from tools.emulators.monitoring.series import Series, SeriesStore

SELECTOR = r'([A-Za-z0-9_:]+)\{monitored_resource="(\w+)"\}\[(\d+)([dm])\]'
SILENCE = re.compile(rf"\(last_over_time\({SELECTOR}\) > 0\) unless count_over_time\({SELECTOR}\)")
UNITS = {"d": "days", "m": "minutes"}
Labels = tuple[tuple[str, str], ...]
Holds = Callable[[datetime], set[Labels]]


def fires_at(policy: Any, store: SeriesStore, begin: datetime, end: datetime) -> datetime | None:
    """The first moment between two at which the policy's only condition is met; None: it is not."""
    (condition,) = policy.conditions
    promql = condition.condition_prometheus_query_language
    if promql.query:
        holds, lasting, every = _query(promql.query, store), promql.duration or timedelta(0), promql.evaluation_interval
    else:
        body = condition.condition_absent
        holds, lasting, every = _absence(body.filter, body.duration, store), timedelta(0), timedelta(seconds=30)
    since: dict[Labels, datetime] = {}
    at = begin
    while at <= end:
        met = holds(at)
        since = {labels: since.get(labels, at) for labels in met}
        if any(at - first >= lasting for first in since.values()):
            return at
        at += every
    return None


def _query(text: str, store: SeriesStore) -> Holds:
    found = SILENCE.fullmatch(text)
    assert found is not None, f"this evaluator reads no other PromQL than ours: {text}"
    told, heard = found.groups()[:4], found.groups()[4:]

    def holds(at: datetime) -> set[Labels]:
        over = {labels for labels, values in _selected(store, told, at) if values[-1] > 0}
        return over - {labels for labels, _ in _selected(store, heard, at)}

    return holds


def _selected(store: SeriesStore, selector: Sequence[str], at: datetime) -> Iterator[tuple[Labels, list[int]]]:
    """(labels, values in the window, oldest first) of each series that has any."""
    name, resource, number, unit = selector
    begin = at - timedelta(**{UNITS[unit]: int(number)})
    for series in store.series.values():
        if promql_name(series.shown.metric.type) == name and series.shown.resource.type == resource:
            values = [point.value.int64_value for point in series.points if begin < point.end <= at]
            if values:
                yield _labels(series), values


def _absence(text: str, lasting: timedelta, store: SeriesStore) -> Holds:
    metric = re.search(r'metric\.type = "([^"]+)"', text)
    assert metric is not None

    def holds(at: datetime) -> set[Labels]:
        seen = {
            _labels(one): [point.end for point in one.points if point.end <= at]
            for one in store.series.values()
            if one.shown.metric.type == metric[1]
        }
        return {labels for labels, ends in seen.items() if ends and at - ends[-1] >= lasting}

    return holds


def _labels(series: Series) -> Labels:
    return tuple(sorted({**series.shown.resource.labels, **series.shown.metric.labels}.items()))
