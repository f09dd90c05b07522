"""What an experiment showed: what was assumed, what was observed, whether the two contradict each other, and what that means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from cdn_worker.logs import masked

_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")
_SECRETS = re.compile(r"(?i)\b(Signature|Policy|Key-Pair-Id|upload_id|X-Amz-[A-Za-z-]+)=[^&\s\"']+")
_BEARER = re.compile(r"(?i)\b(Authorization:|Bearer)\s+[^\s\"']+(\s+[^\s\"']{16,})?")


class Outcome(StrEnum):
    """How an observation stands to what the program relies on.

    NOTED      nothing is relied on: it is worth knowing
    UNSETTLED  it was to be looked at, and could not be
    LEFT_OUT   its subject is not configured
    """

    AGREES = "as assumed"
    CONTRADICTS = "contradicts"
    NOTED = "noted"
    UNSETTLED = "unsettled"
    LEFT_OUT = "not looked at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One row of the table.

    subject   its name: a row of docs/probe.md
    answers   what the program heeds later (`domain/service_answers.py`): name → value
    details   the answer as it came, for a bug report; without secrets
    """

    subject: str
    outcome: Outcome
    assumed: str = ""
    observed: str
    meaning: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def contradicts(self) -> bool:
        return self.outcome is Outcome.CONTRADICTS


def judge(
    subject: str,
    *,
    assumed: str,
    observed: str,
    contradicts: bool,
    meaning: str = "",
    answers: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Observation:
    """An observation of something that the program relies on. meaning: said only where the two contradict each other."""
    return Observation(
        subject=subject,
        outcome=Outcome.CONTRADICTS if contradicts else Outcome.AGREES,
        assumed=assumed,
        observed=observed,
        meaning=meaning if contradicts else "",
        answers=answers or {},
        details=details or {},
    )


def note(
    subject: str,
    observed: str,
    meaning: str = "",
    *,
    assumed: str = "",
    answers: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Observation:
    """Something that is safe either way."""
    return Observation(
        subject=subject,
        outcome=Outcome.NOTED,
        assumed=assumed,
        observed=observed,
        meaning=meaning,
        answers=answers or {},
        details=details or {},
    )


def unsettle(subject: str, why: str, meaning: str = "run the probe again once it is mended") -> Observation:
    return Observation(
        subject=subject, outcome=Outcome.UNSETTLED, observed=f"could not be looked at: {hide(why)}", meaning=meaning
    )


def is_transient(status: int) -> bool:
    """Whether an HTTP status says nothing of how a service behaves, only that it is busy or broken at the moment."""
    return status in (408, 429) or status >= 500


def leave_out(subject: str, why: str) -> Observation:
    return Observation(subject=subject, outcome=Outcome.LEFT_OUT, observed=f"not looked at: {why}")


def hide(text: str, longest: int = 500) -> str:
    """Text fit for a screen and a bug report: on one line, at most so long, without queries of URLs, tokens and signatures."""
    line = " ".join(masked(text).split())
    line = _BEARER.sub(r"\1 …", _SECRETS.sub(r"\1=…", _QUERY.sub(r"\1?…", line)))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that one probe observed. left_behind: what could not be removed, and the next probe removes."""

    probe: str
    began_at: str
    version: str
    project: str
    source: str
    destination: str
    observations: Sequence[Observation]
    left_behind: Sequence[str] = ()

    @property
    def answers(self) -> dict[str, str]:
        """What is heeded, of all observations together."""
        return {name: value for observation in self.observations for name, value in observation.answers.items()}

    @property
    def failed(self) -> bool:
        """Whether something contradicts what the program relies on, could not be settled, or was left behind."""
        bad = (Outcome.CONTRADICTS, Outcome.UNSETTLED)
        return bool(self.left_behind) or any(observation.outcome in bad for observation in self.observations)

    def text(self) -> str:
        """The report as JSON, with everything that looks like a secret left out."""
        return json.dumps(_mask(asdict(self)), ensure_ascii=False, indent=2) + "\n"


def _mask(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _mask(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(inner) for inner in value]
    return hide(value, 4000) if isinstance(value, str) else value
