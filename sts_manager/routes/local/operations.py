"""What the utility commands ask of the transfer service, with the operations that this program runs itself beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from sts_manager.domain.errors import Retryable
from sts_manager.domain.model import OperationSnapshot
from sts_manager.domain.names import OperationName
from sts_manager.ports import TransferJobView, TransferProject


class OwnOperations(Protocol):
    """Operations of one kind, known by how their names begin."""

    @property
    def stem(self) -> str: ...

    def live(self) -> Mapping[str, OperationSnapshot]:
        """Those that are not over, by the name of their job."""
        ...

    def operation(self, name: OperationName) -> OperationSnapshot | None: ...

    def steer(self, name: OperationName, *, paused: bool) -> bool:
        """Pause or resume one; False when it is so already, or over."""
        ...

    def cancel(self, name: OperationName) -> None: ...

    def job_of_part(self, name: str) -> str | None:
        """The job of ours that a transfer job at the service is a part of, if it is one."""
        ...


class Beside:
    """The `TransferProject` port over all of them. `service` makes the transfer service's side when it is first asked."""

    def __init__(self, service: Callable[[], TransferProject], own: Sequence[OwnOperations]) -> None:
        self._service, self._own = service, own

    def transfer_jobs(self) -> Iterable[TransferJobView]:
        """The service's alone: what we run ourselves leaves nothing else there to be removed."""
        return self._service().transfer_jobs()

    def active_operations(self, job_names: Collection[str] | None) -> Iterable[tuple[str, OperationSnapshot]]:
        ours = {job: seen for own in self._own for job, seen in own.live().items()}
        yield from ((job, seen) for job, seen in ours.items() if job_names is None or job in job_names)
        others = None if job_names is None else [name for name in job_names if name not in ours]
        if others is None or others:
            for job, seen in self._service().active_operations(others):
                # A part of a job of ours is steered with the job.
                if not any(own.job_of_part(job) in ours for own in self._own):
                    yield job, seen

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        found: dict[OperationName, OperationSnapshot] = {}
        for name in names:
            own = self._owner(name)
            seen = None if own is None else own.operation(name)
            if seen is not None:
                found[name] = seen
        others = [name for name in names if self._owner(name) is None]
        return {**found, **self._service().operations(others)} if others else found

    def pause(self, name: OperationName) -> None:
        self._steer(name, paused=True)

    def resume(self, name: OperationName) -> None:
        self._steer(name, paused=False)

    def cancel(self, name: OperationName) -> None:
        own = self._owner(name)
        if own is None:
            self._service().cancel(name)
        else:
            own.cancel(name)

    def delete_job(self, name: str) -> None:
        self._service().delete_job(name)

    def _owner(self, name: OperationName) -> OwnOperations | None:
        return next((own for own in self._own if name.startswith(own.stem)), None)

    def _steer(self, name: OperationName, *, paused: bool) -> None:
        own = self._owner(name)
        if own is None:
            (self._service().pause if paused else self._service().resume)(name)
        elif not own.steer(name, paused=paused):
            raise Retryable(f"{name} is not {'running' if paused else 'paused'} any more", code="FAILED_PRECONDITION")
