"""Following: a transfer job with an event stream copies what changes at the source, as S3 tells it by an SQS queue.

The service begins by itself once the job is made, and goes on until the job is deleted. One queue is for one job: two would take
each other's events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from google.cloud import storage_transfer_v1 as sts

from sts_manager.domain.errors import Denied, NotFound, Permanent, Retryable, Throttled
from sts_manager.domain.model import OperationSnapshot, OperationState, StartJob
from sts_manager.domain.naming import JobName, OperationName
from sts_manager.ports import Started
from sts_manager.routes.sts import StsClient, client_in, listed, made
from sts_manager.routes.sts_spec import TransferSettings, classes_of, transfer_job

LISTENS_WITHIN = timedelta(seconds=10)


class FollowRoute:
    """The `TransferRoute` port for rows that `follow` has made intents of. event_queue: the ARN of the SQS queue."""

    def __init__(self, clients: Mapping[str, StsClient], settings: TransferSettings, event_queue: str) -> None:
        self._clients, self._settings, self._event_queue = clients, settings, event_queue
        self._home: dict[OperationName, str] = {}

    def start(self, order: StartJob) -> Started:
        """Make the job or find it, and its operation. Its rows belong together, so what is refused ends all of them."""
        client = client_in(self._clients, order.project)
        try:
            if not order.adopt_only:
                job = self._job(order)
                made(client, job, classes_of(job, self._settings))
            found = client.get(JobName(order.job_name))
        except NotFound:
            return Started(operation_name=None)
        except Throttled as error:
            # The intent stays: these rows are started together or not at all.
            raise Retryable(str(error), code=error.code, after=error.after) from error
        except Denied as error:
            raise Permanent(str(error), code=error.code) from error
        if not found.latest_operation_name:
            raise Retryable(f"{order.job_name} is there, and the service has not begun to listen yet", after=LISTENS_WITHIN)
        return Started(operation_name=OperationName(found.latest_operation_name), adopted=True)

    def _job(self, order: StartJob) -> sts.TransferJob:
        if not self._event_queue:
            raise Permanent("following needs the SQS queue that S3 tells its events: --event-queue", code="ROUTE_UNFIT")
        try:
            job = transfer_job(order, self._settings)
        except ValueError as error:
            raise Permanent(f"{order.prefix!r}: {error}", code="ROUTE_UNFIT") from error
        job.event_stream = sts.EventStream(name=self._event_queue)
        return job

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        """One that has ended will not listen again: another attempt is for a person to begin, by `follow`."""
        found = listed(self._clients, names, self._home)
        ended = (OperationState.FAILED, OperationState.SUCCESS)
        return {name: replace(seen, permanent=seen.state in ended) for name, seen in found.items()}

    def pause(self, name: OperationName) -> None:
        client_in(self._clients, self._home.get(name, "")).pause(name)

    def resume(self, name: OperationName) -> None:
        client_in(self._clients, self._home.get(name, "")).resume(name)
