"""The alert on a silent daemon: it fires for one that died with work left, and for no migration that has ended."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud import monitoring_v3 as monitoring

from sts_manager.domain.heartbeat import Vitals, points
from sts_manager.domain.model import JobStatus
from sts_manager.metrics.alerts import alerts
from sts_manager.metrics.cloud_monitoring import ALERT_LABEL, AlertPolicies, CloudMonitoring, Origin
from tests.policies import fires_at
from tools.emulators.stage import PROJECT, Stage

MINUTE = timedelta(minutes=1)
SILENCE = 5 * MINUTE
LATE = 2 * MINUTE
"""A minute that the condition has to last, and what evaluations every half minute add."""


def vitals(*, waiting: int = 0, running: int = 0, done: int = 0, error: int = 0) -> Vitals:
    counts = dict.fromkeys(JobStatus, 0) | {JobStatus.WAITING: waiting, JobStatus.RUNNING: running}
    return Vitals(counts=counts | {JobStatus.DONE: done, JobStatus.ERROR: error})


AT_WORK, ENDED, ENDED_BADLY = vitals(waiting=3, running=2), vitals(done=5), vitals(done=3, error=2)
STARTING = Vitals(degraded=True)
"""Before its first pass: nothing is known of the table."""


class History:
    """Heartbeats of one daemon, a minute apart, that began some hours ago."""

    def __init__(self, task: str = "0badcafe") -> None:
        self.begin = self.at = datetime.now(UTC) - timedelta(hours=3)
        origin = Origin(project=PROJECT, location="global", namespace="data_migration", task_id=task)
        self._sink = CloudMonitoring(origin, os.environ["MONITORING_EMULATOR_HOST"])

    def beat(self, what: Vitals, minutes: int = 1) -> datetime:
        """So many heartbeats; when the last one was."""
        for _ in range(minutes):
            self.at += MINUTE
            self._sink.publish(points(what, self.begin), self.at)
        return self.at

    def rest(self, minutes: int) -> None:
        self.at += minutes * MINUTE


@pytest.fixture
def history(stage: Stage) -> History:
    policies = AlertPolicies(PROJECT, os.environ["MONITORING_EMULATOR_HOST"])
    list(policies.apply(alerts(sleep_s=60, job_interval_s=1200, metrics_interval_s=300), (), dry_run=False))
    return History()


def silent_from(stage: Stage, history: History, end: datetime | None = None, policy: Any = None) -> datetime | None:
    """When the policy that was created fires, until two days after the last heartbeat."""
    assert stage.monitoring is not None
    made = [one for one in stage.monitoring.policies.policies.values() if one.user_labels[ALERT_LABEL] == "daemon-silent"]
    until = end or history.at + timedelta(days=2)
    return fires_at(policy or made[0], stage.monitoring.series, history.begin, until)


def absence() -> monitoring.AlertPolicy:
    """What the policy would be by an absence condition."""
    metric = 'metric.type = "custom.googleapis.com/sts_job_manager/status/waiting" AND resource.type = "generic_task"'
    return monitoring.AlertPolicy(conditions=[{"condition_absent": {"filter": metric, "duration": SILENCE}}])


@pytest.mark.parametrize("last", [ENDED, ENDED_BADLY])
def test_a_migration_that_has_ended_is_not_missed(stage: Stage, history: History, last: Vitals) -> None:
    history.beat(AT_WORK, 20)
    at = history.beat(last)
    assert silent_from(stage, history) is None
    assert silent_from(stage, history, policy=absence()) == at + SILENCE, "an absence condition would wake somebody"


@pytest.mark.parametrize("last", [AT_WORK, vitals(waiting=1, done=4), vitals(running=1, done=4)])
def test_a_daemon_that_dies_or_is_stopped_with_work_left_is_missed(stage: Stage, history: History, last: Vitals) -> None:
    history.beat(AT_WORK, 20)
    at = history.beat(last)
    fired = silent_from(stage, history)
    assert fired is not None
    assert at + SILENCE <= fired <= at + SILENCE + LATE
    assert silent_from(stage, history, at + SILENCE) is None


def test_one_that_goes_on_in_time_is_not_missed(stage: Stage, history: History) -> None:
    history.beat(AT_WORK, 5)
    history.rest(4)
    history.beat(AT_WORK, 5)
    history.beat(ENDED)
    assert silent_from(stage, history) is None


def test_one_that_cannot_make_its_first_pass_is_heard_all_the_same(stage: Stage, history: History) -> None:
    history.beat(AT_WORK, 5)
    at = history.beat(STARTING, 30)
    assert silent_from(stage, history, at) is None
    assert silent_from(stage, history) is not None, "until it dies"


def test_a_migration_that_goes_on_after_its_end_is_missed_again(stage: Stage, history: History) -> None:
    history.beat(AT_WORK, 5)
    history.beat(ENDED)
    history.rest(60)
    at = history.beat(AT_WORK, 5)
    fired = silent_from(stage, history)
    assert fired is not None
    assert fired >= at + SILENCE


def test_migrations_are_told_apart(stage: Stage, history: History) -> None:
    history.beat(AT_WORK, 5)
    history.beat(ENDED)
    other = History("feedbeef")
    at = other.beat(AT_WORK, 50)
    fired = silent_from(stage, other)
    assert fired is not None
    assert fired >= at + SILENCE


def test_one_that_nobody_goes_on_with_is_forgotten_after_a_week(stage: Stage, history: History) -> None:
    at = history.beat(AT_WORK, 3)
    assert stage.monitoring is not None
    (policy,) = [one for one in stage.monitoring.policies.policies.values() if one.user_labels[ALERT_LABEL] == "daemon-silent"]
    week = timedelta(days=7)
    assert fires_at(policy, stage.monitoring.series, at + week - timedelta(hours=1), at + week) is not None
    assert fires_at(policy, stage.monitoring.series, at + week, at + week + timedelta(hours=1)) is None
