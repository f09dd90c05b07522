"""What a daemon does with its ledger of the pool when it comes to lead."""

from __future__ import annotations

from datetime import datetime

from sts_manager.ports import JobStore
from sts_manager.routes.pool.ledger import PoolLedger


def take_over(ledger: PoolLedger, store: JobStore, fence: int | None, at: datetime) -> None:
    """End what another ledger may have been told of, and write down that this one is told from now on.

    In this order: should this process die in between, the next one finds the other ledger's id again. Raises LeaseLost,
    StoreUnavailable.
    """
    last = store.control().ledger
    ledger.lead(last, at)
    if last != ledger.id:
        store.note_ledger(ledger.id, fence)
