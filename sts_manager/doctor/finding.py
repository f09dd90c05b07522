"""What a check found, and how checks are run: one that cannot be made is told, and stops no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sts_manager.domain.errors import StsManagerError
from sts_manager.domain.location import Place
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.settings import Settings

_SECRETS = re.compile(r"(Signature|Policy|X-Amz-[A-Za-z]+|Authorization)[=:]\s*[^&\s]+")


class Level(StrEnum):
    """FAIL: it will not work. WARN: it may cost, or could not be looked at. SKIP: it does not apply here."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the table. fix: the exact thing to do; empty where nothing is to be done."""

    check: str
    level: Level
    says: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.level is Level.FAIL and not self.fix:
            raise ValueError(f"{self.check!r} fails without saying what to do")


Check = Callable[[], Iterable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is examined.

    now_s      seconds since 1970, by this machine's clock
    loopback   a stage on this machine is meant
    answers    what a probe observed; None when nobody probed
    """

    settings: Settings
    project: str
    source: Place
    sink: Place
    routes: frozenset[str]
    now_s: Callable[[], float]
    loopback: bool
    answers: ServiceAnswers | None = None


def passed(check: str, says: str) -> Finding:
    return Finding(check=check, level=Level.PASS, says=says)


def warned(check: str, says: str, fix: str = "") -> Finding:
    return Finding(check=check, level=Level.WARN, says=says, fix=fix)


def failed(check: str, says: str, fix: str) -> Finding:
    return Finding(check=check, level=Level.FAIL, says=says, fix=fix)


def skipped(check: str, says: str) -> Finding:
    return Finding(check=check, level=Level.SKIP, says=says)


def guarded(name: str, check: Check, vendors: Sequence[type[Exception]]) -> Iterator[Finding]:
    """What a check finds; where it meets an error that it did not expect, that is a finding too."""
    expected: tuple[type[Exception], ...] = (*vendors, StsManagerError, OSError)
    try:
        yield from check()
    except expected as error:
        said = " ".join(_SECRETS.sub(r"\1=…", str(error)).split())[:300]
        yield warned(
            name, f"it could not be looked at: {type(error).__name__}: {said}", "see what the message names; then run this again"
        )
