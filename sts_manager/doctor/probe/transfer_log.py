"""What the service writes to Cloud Logging of a failed object: whether the program finds it, and how late it comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sts_manager.doctor.probe.context import LOG_POLL_S, LOG_WAIT_S, Context
from sts_manager.doctor.probe.observation import Observation, judge, unsettle
from sts_manager.domain.errors import StsManagerError
from sts_manager.domain.names import OperationName
from sts_manager.routes.sts.transfer_log import DEADLINE_S, LOGGING, LOGGING_EMULATOR, read_failures, session_at

LOG = "log of a failed object"
BEGAN_WITHIN = timedelta(hours=1)
"""A probe's transfer ends within minutes; entries that are older are none of its."""


def probe_log(context: Context, operation: OperationName) -> Observation:
    """Ask with the program's own filter and with the least there is, until both know it or the time is over."""
    entry: dict[str, Any] = {}
    raw_s = own_s = -1.0
    since = datetime.now(UTC) - BEGAN_WITHIN
    for passed in context.wait(LOG_WAIT_S, LOG_POLL_S):
        try:
            if raw_s < 0 and (entry := _entry(context.project, operation)):
                raw_s = passed
            if own_s < 0 and read_failures(context.project, operation, since, 1).objects:
                own_s = passed
        except StsManagerError as error:
            return unsettle(LOG, str(error), "grant roles/logging.viewer, or leave --sts-log-failures out")
        if own_s >= 0:
            break
        if raw_s >= 0 and passed - raw_s >= 2 * LOG_POLL_S:
            break  # it is there, and this program does not see it
    return judge_log(entry, raw_s, own_s)


def judge_log(entry: dict[str, Any], raw_s: float, own_s: float) -> Observation:
    """raw_s, own_s: seconds until an entry of the operation was there, and until the program's reading found it; -1: never."""
    if raw_s < 0 and own_s < 0:
        meaning = f"causes of failed objects come later than {LOG_WAIT_S:g} s, or never: see in the console whether one came"
        return unsettle(LOG, f"no entry of the operation within {LOG_WAIT_S:g} s", meaning)
    observed = f"found after {own_s:.0f} s"
    if own_s < 0:
        observed = f"an entry came after {raw_s:.0f} s, and this program does not find it"
    return judge(
        LOG,
        assumed="the service logs each failed object, and `failures` finds the entry",
        observed=observed,
        contradicts=own_s < 0,
        meaning="--sts-log-failures names no object and no cause: see the log itself in the console",
        answers={"log_delay_seconds": f"{own_s:.0f}"} if own_s >= 0 else {},
        details={"entry": entry},
    )


def _entry(project: str, operation: OperationName) -> dict[str, Any]:
    base, session = session_at(LOGGING_EMULATOR, LOGGING)
    wanted = f'resource.type="storage_transfer_job" AND jsonPayload.operation:"{operation.rpartition("/")[2]}"'
    asked = {"resourceNames": [f"projects/{project}"], "filter": wanted, "pageSize": 1}
    with session:
        answer = session.post(f"{base}/v2/entries:list", json=asked, timeout=DEADLINE_S)
    entries = answer.json().get("entries", ()) if answer.status_code == 200 else ()
    return dict(entries[0]) if entries else {}
