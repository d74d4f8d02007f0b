"""What a standby costs on each backend while nothing happens: CPU as a share of one core, and resident memory.

Two standbys beside a leader that renews, for SECONDS each backend; both figures are the larger of the two standbys.
"""

import asyncio
import os
import tempfile
from pathlib import Path

from tests.bench.failover import STAGES
from tests.bench.footprint import resident_mb
from tests.bench.harness import finish, say

SECONDS = float(os.environ.get("SECONDS_EACH", "30"))
SETTLE = 5.0


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(backend):
    with tempfile.TemporaryDirectory(prefix="ssb-") as folder:
        async with STAGES[backend](Path(folder) / "n", os.environ["DOCKER_HOST"], stream=False) as stage:
            await stage.steady()
            await asyncio.sleep(SETTLE)
            pids = [replica.pid for replica in stage.standbys]
            before = [cpu_seconds(pid) for pid in pids]
            await asyncio.sleep(SECONDS)
            used = max(cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True))
            figures = {
                "cpu_percent": round(100 * used / SECONDS, 2),
                "mb": round(max(resident_mb(pid) for pid in pids), 1),
            }
    say(f"{backend}: {figures['cpu_percent']} % of a core, {figures['mb']} MB")
    return figures


async def main():
    wanted = os.environ.get("BACKENDS", ",".join(STAGES)).split(",")
    finish(bench="standby", seconds=SECONDS, **{backend: await measure(backend) for backend in wanted})


if __name__ == "__main__":
    asyncio.run(main())
