"""What this process uses of the transfer service's quotas, in each project: kept under them, shown, and carried over restarts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from sts_manager.domain.model import Limit, Plan, ProjectUse, StartJob
from sts_manager.ports import Clock, QuotaUse
from sts_manager.routes.sts.rate_limiter import BUCKET_S
from sts_manager.routes.sts.route import StsClient


class ServiceQuotas:
    """The `Quotas` port. `clients`: those of the projects that are used; none where nothing has asked for them yet."""

    def __init__(self, clients: Callable[[], Mapping[str, StsClient]], clock: Clock) -> None:
        self._clients, self._clock = clients, clock

    def used(self) -> tuple[QuotaUse, ...]:
        return tuple(
            QuotaUse(project=project, kind=one.kind, seconds=one.seconds, calls=one.calls, most=one.most)
            for project, client in self._clients().items()
            for one in client.pacer.used()
        )

    def creates(self, plan: Plan) -> Mapping[str, Mapping[int, int]]:
        found = {project: dict(client.pacer.buckets()) for project, client in self._clients().items()}
        first = next(iter(found), "")
        now = int(self._clock.now().timestamp() // BUCKET_S)
        for action in plan.actions:
            if isinstance(action, StartJob) and Limit.of(action.route) is Limit.SERVICE:
                buckets = found.get(action.project or first)
                if buckets is not None:
                    buckets[now] = buckets.get(now, 0) + 1
        return found

    def projects(self) -> Mapping[str, ProjectUse]:
        found = {}
        for project, client in self._clients().items():
            day = max((one for one in client.pacer.used() if one.kind == "create"), key=lambda one: one.seconds)
            found[project] = ProjectUse(creates=day.calls, full=day.calls >= day.most, refused=client.pacer.refused("create"))
        # The only project there is is asked again, whatever it said.
        return found if len(found) > 1 else {project: replace(use, refused=False) for project, use in found.items()}

    def recall(self, creates: Mapping[str, Mapping[int, int]]) -> None:
        """Take over what an earlier process created in the last day."""
        for project, client in self._clients().items():
            client.pacer.remember(creates.get(project, {}))
