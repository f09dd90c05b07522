"""From settings to the route `sts-follow`, and to what is done after each look at a followed job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import timedelta

from sts_manager.clock import SystemClock
from sts_manager.domain.errors import BadInput, Permanent, Retryable
from sts_manager.domain.location import Scheme
from sts_manager.domain.model import PrefixJob
from sts_manager.domain.names import OperationName, Prefix
from sts_manager.ports import JobStore, TransferRoute
from sts_manager.routes.event_driven.route import FollowRoute
from sts_manager.routes.sts.repairs import Comparisons, Repairs
from sts_manager.routes.sts.route import StsClient
from sts_manager.routes.sts.spec import TransferSettings
from sts_manager.settings import Settings

log = logging.getLogger(__name__)


def follow_route(
    settings: Settings,
    transfers: TransferSettings,
    clients: Mapping[str, StsClient],
    comparisons: Comparisons,
    open_store: Callable[[], JobStore],
) -> FollowRoute:
    """Raises BadInput where a queue is given that the source tells nothing.

    open_store   for a thread of its own
    """
    if settings.event_queue and transfers.source.scheme is not Scheme.S3:
        raise BadInput(f"--event-queue is for an S3 source, but --source-bucket is {transfers.source}")
    clock = SystemClock()
    repairs = Repairs(
        transfers,
        comparisons,
        clock,
        tries_max=0 if settings.no_retry_on_job_error else settings.max_attempts,
        retry_delay=timedelta(seconds=settings.retry_delay),
    )

    def row_of(name: OperationName) -> PrefixJob | None:
        with closing(open_store()) as store:
            return next((job for job in store.live() if job.operation_name == name), None)

    def history_of(prefix: Prefix) -> list[PrefixJob]:
        with closing(open_store()) as store:
            return [event.job for event in store.history(prefix)]

    return FollowRoute(clients, transfers, settings.event_queue, clock, repairs, row_of, history_of)


class Mending:
    """Called by the reconciler after each look at a followed job. What cannot be done is told, once for each cause."""

    def __init__(self, route: TransferRoute) -> None:
        self._route = route
        self._told: set[str] = set()

    def __call__(self, rows: Sequence[PrefixJob], may_start: bool, /) -> None:
        if not isinstance(self._route, FollowRoute):
            return
        try:
            self._route.mend(rows, may_start=may_start)
        except (BadInput, Retryable, Permanent) as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                fields = {"prefix": rows[0].prefix, "cause": str(error), "effect": "it is tried again after the next look"}
                log.warning("followed_objects_wait", extra={"fields": fields})
