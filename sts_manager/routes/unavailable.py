"""A route that this daemon cannot offer: whoever asks for it is told why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sts_manager.domain.errors import Permanent, Retryable
from sts_manager.domain.model import OperationSnapshot, StartJob
from sts_manager.domain.names import OperationName
from sts_manager.ports import Started


class NoRoute:
    """`why`: what is missing, for a person."""

    def __init__(self, why: str) -> None:
        self._why = why

    def start(self, order: StartJob) -> Started:
        raise Permanent(f"route {order.route} is not to be had: {self._why}", code="ROUTE_UNFIT")

    def operations(self, _names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        raise Retryable(f"operations of the Storage Transfer Service cannot be asked about: {self._why}")

    def pause(self, _name: OperationName) -> None:
        raise Permanent(self._why, code="ROUTE_UNFIT")

    def resume(self, _name: OperationName) -> None:
        raise Permanent(self._why, code="ROUTE_UNFIT")
