"""What the stack costs at rest: processor time and memory of each of its services, with nothing to do.

    python -m benchmarks.rest [folder of a running stack]

With a folder, such as `.pipeline`, the stack that runs there is measured as it is; it should have nothing to do. Without one, all services
are started in a folder of their own, without the histories of the use cases, and given two minutes to settle. Processor time is that of all
processes of a service, those that ended meanwhile included where a process of the service has waited for them. Memory is the proportional
set size: what several processes share counts once in all.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from pipeline_assets.core.settings import StackSettings
from pipeline_assets.local_stack import processes, stack

SETTLE_SECONDS, SECONDS = 120.0, 60.0
MOST_SECONDS_A_MINUTE, MOST_MB = 6.0, 1_500.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a service had cost up to a moment: seconds of processor time, MB of memory, and of how many processes."""

    seconds: float
    memory_mb: float
    processes: int


def cost(members: Sequence[psutil.Process]) -> Cost:
    """What these processes have cost; one that has just ended is left out, as its parent has its time by then."""
    seconds, memory, alive = 0.0, 0, 0
    for member in members:
        try:
            used, mapped = member.cpu_times(), member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
        seconds, memory, alive = seconds + sum(used[:4]), memory + mapped, alive + 1
    return Cost(seconds=seconds, memory_mb=memory / 1e6, processes=alive)


def costs(home: Path) -> dict[str, Cost]:
    """What each running service of the folder has cost."""
    found = {name: cost(processes.family(home, name)) for name in sorted(processes.all_remembered(home))}
    return {name: each for name, each in found.items() if each.processes}


def measure(home: Path, seconds: float) -> tuple[float, float]:
    """Prints what each service costs while `seconds` pass, and gives the sums: seconds of processor time a minute, and MB."""
    began, before = time.monotonic(), costs(home)
    time.sleep(seconds)
    after, minutes = costs(home), (time.monotonic() - began) / 60
    rates = {name: max(0.0, after[name].seconds - before[name].seconds) / minutes for name in before.keys() & after.keys()}
    for name in sorted(rates, key=lambda name: -rates[name]):
        print(f"  {name:16} {rates[name]:6.2f} s/min {after[name].memory_mb:7.0f} MB {after[name].processes:4} processes")
    return sum(rates.values()), sum(each.memory_mb for each in after.values())


def report(home: Path) -> None:
    """Measures the stack of a folder, and prints the sums with their targets."""
    seconds, memory = measure(home, SECONDS)
    wanted = f"at most {MOST_SECONDS_A_MINUTE:g} s/min and {MOST_MB:,.0f} MB wanted"
    print(f"  {'all':16} {seconds:6.2f} s/min {memory:7,.0f} MB ({wanted})")


def main() -> None:
    """Measures the stack that is given, or one of its own, which is stopped again."""
    print("The stack at rest")
    if sys.argv[1:]:
        report(Path(sys.argv[1]).resolve())
        return
    with TemporaryDirectory() as folder:
        home = Path(folder) / "stack"
        try:
            stack.up(home, with_history=False, stack=StackSettings(ports=stack.free_ports(), given={}))
            time.sleep(SETTLE_SECONDS)
            report(home)
        finally:
            stack.down(home, purge=True)


if __name__ == "__main__":
    main()
