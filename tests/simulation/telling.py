"""One world, told step by step, for whoever looks for the cause of a failure."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from tests.simulation.timeline import Timeline
from tests.simulation.world import World


class _Told(logging.Handler):
    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def emit(self, record: logging.LogRecord) -> None:
        actor = self._timeline.running
        who = "" if actor is None else actor.name
        fields = getattr(record, "fields", "")
        print(f"{self._timeline.now:10.1f} {who:18} {record.levelname:8} {record.getMessage()} {fields}")
        if record.exc_info:
            print(logging.Formatter().formatException(record.exc_info))


def tell(seed: int, hours: float) -> int:
    """0 when all invariants held."""
    with tempfile.TemporaryDirectory(prefix="sts-manager-world-") as folder:
        world = World(seed, Path(folder), hours)
        root = logging.getLogger()
        root.addHandler(_Told(world.timeline))
        root.setLevel(logging.INFO)
        count = world.chance.count

        def told(fault: str, about: str = "") -> None:
            print(f"{world.timeline.now:10.1f} {'':18} FAULT    {fault} {about}")
            count(fault, about)

        world.chance.count = told  # type: ignore[method-assign]
        print(world.shape)
        try:
            world.run()
        except AssertionError as error:
            print(error)
            return 1
        print(f"all invariants held; {dict(world.statistics())}")
        return 0


if __name__ == "__main__":
    sys.exit(tell(int(sys.argv[1]), 6.0))
