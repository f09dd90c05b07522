"""What a pass of the reconciler saw and did: for the loop, for `--once` and for a progress screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sts_manager.domain.following import QUEUE_MISSING
from sts_manager.domain.heartbeat import Tally
from sts_manager.domain.model import JobStatus, Outcome, Plan, PrefixJob
from sts_manager.domain.names import Prefix
from sts_manager.ports import QuotaUse, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """followed: the live rows of route sts-follow, as they are after the pass; follows: whether this daemon begins such ones."""

    plan: Plan
    counts: dict[JobStatus, int]
    stale: frozenset[Prefix] = frozenset()
    degraded: str = ""
    acted: int = 0
    outcomes: tuple[Outcome, ...] = ()
    progress: Sample | None = None
    tally: Tally = field(default_factory=Tally)
    live_by_route: Mapping[str, int] = field(default_factory=dict)
    followed: tuple[PrefixJob, ...] = ()
    follows: bool = True
    quotas: tuple[QuotaUse, ...] = ()

    @property
    def unended(self) -> int:
        """How many prefixes are waiting, running or paused.

        One that is followed is none of them: its bulk is done, and following has no end. Only that it begins is waited for, by a
        daemon that can begin it.
        """
        live = sum(self.counts[status] for status in (JobStatus.WAITING, JobStatus.RUNNING, JobStatus.PAUSED))
        left_alone = () if self.follows else (job for job in self.followed if job.error_code == QUEUE_MISSING)
        return live - sum(job.operation_name is not None for job in self.followed) - len(tuple(left_alone))

    @property
    def ended(self) -> bool:
        return self.unended <= 0

    @property
    def amiss(self) -> bool:
        """Whether a prefix ended in error, or something that failed of a followed one is not mended."""
        return bool(self.counts[JobStatus.ERROR] or any(job.error_code for job in self.followed))
