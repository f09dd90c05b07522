"""The typed errors of the world, classed by what the caller should do."""

from __future__ import annotations

from datetime import timedelta


class StsManagerError(Exception):
    """Anything this program raises on purpose; its text is fit for an operator to read."""


class Retryable(StsManagerError):
    """The call may or may not have been applied; ask again later.

    `after` is the shortest wait the other side asked for, if it said so. `code` is the service's status name.
    """

    def __init__(self, message: str, *, code: str = "UNAVAILABLE", after: timedelta | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.after = after


class Throttled(Retryable):
    """The service refused the call for now, and certainly did not apply it (RESOURCE_EXHAUSTED, our own quota pacing)."""

    made = False
    """Of a start: whether the transfer job exists all the same, and only its run was refused."""

    def __init__(self, message: str, *, code: str = "RESOURCE_EXHAUSTED", after: timedelta | None = None) -> None:
        super().__init__(message, code=code, after=after)


class Unready(Retryable):
    """This daemon was not told what the call takes; certainly not applied, and another daemon's to do."""


class Permanent(StsManagerError):
    """This unit of work fails for good; the daemon lives."""

    def __init__(self, message: str, *, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.code = code


class Denied(Permanent):
    """A permission or a bucket is missing: no prefix of this project can start until a person mends it."""

    made = False
    """As of `Throttled`."""

    def __init__(self, message: str, *, code: str = "PERMISSION_DENIED") -> None:
        super().__init__(message, code=code)


class NameTaken(Permanent):
    """A transfer job of our name exists with another spec: adopting it would move other objects than were asked for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="SPEC_DIFFERS")


class NameDeleted(Permanent):
    """A transfer job of our name existed and was deleted: the service keeps the name for about 30 days."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="JOB_DELETED")


class NotFound(Permanent):
    """The named thing does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="NOT_FOUND")


class OutOfOrder(Permanent):
    """A metric's point is older than its last one."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="OUT_OF_ORDER")


class Fatal(StsManagerError):
    """The program cannot go on (exit code 3)."""


class StoreUnavailable(Retryable):
    """The job store cannot be read or written at the moment: locked, full, or unreachable."""


class StoreTooNew(Fatal):
    """The job store was written by a newer version of this program."""


class StoreNotPrepared(Fatal):
    """The job store has no tables yet; `prepare-tables` makes them."""


class LeaseLost(StsManagerError):
    """Another daemon holds the lease of this store: what this one wanted to write was not written."""


class BadInput(StsManagerError):
    """The user gave something this program refuses (exit code 2). The text names it, where it came from, and what is right."""
