"""ROUNDS rounds of faults on each backend, the last line one JSON object. BACKENDS=file,redis,swarm chooses;
FAULTS=TEXT picks by name."""

import asyncio
import itertools
import json
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.bench.harness import say
from tests.faults.nemesis import on_file, on_redis, on_swarm
from tests.faults.nemesis.faults import play
from tests.faults.nemesis.figures import seconds

STAGES = {
    "file": (on_file.FileStage, on_file.FAULTS),
    "redis": (on_redis.RedisStage, on_redis.FAULTS),
    "swarm": (on_swarm.SwarmStage, on_swarm.FAULTS),
}
ROUNDS = int(os.environ.get("ROUNDS", "50"))


async def torment(backend, folder, total):
    make, faults = STAGES[backend]
    wanted = os.environ.get("FAULTS", "")
    chosen = [fault for fault in faults if wanted in fault.name]
    random.shuffle(chosen)
    took, odd = {}, 0
    async with make(folder, os.environ["DOCKER_HOST"]) as stage:
        for number, fault in zip(range(ROUNDS), itertools.cycle(chosen), strict=False):
            total["rounds"] += 1
            try:
                outcome = await play(stage, fault)
            except Exception as error:
                total["broken"] += 1
                say(f"{backend} {number + 1}/{ROUNDS}  {fault.name}: could not be played: {str(error)[:2000]!r}")
                continue
            if outcome.took is not None:
                took.setdefault(fault.name, []).append(outcome.took)
            broken = stage.violations()
            happened = f"another led after {outcome.took:.2f} s" if outcome.took is not None else "no change"
            if not outcome.expected:
                odd += 1
                happened += f", expected: {fault.expect}"
            say(
                f"{backend} {number + 1}/{ROUNDS}  {fault.name}: {happened}; {len(stage.tenures())} tenures, "
                f"{sum(map(len, broken.values()))} violations"
            )
            for text in [line for lines in broken.values() for line in lines][:10]:
                say(f"    {text}")
        verdict = await stage.settle()
        broken = stage.violations()
    for name in ("overlaps", "epochs_out_of_order"):
        total[name] += len(broken[name])
    for name, count in (
        ("commands", verdict.sent),
        ("lost", len(verdict.lost)),
        ("twice", len(verdict.twice)),
        ("undelivered", len(verdict.undelivered)),
        ("unexpected", odd),
    ):
        total[name] += count
    if verdict.lost or verdict.twice:
        say(f"    lost: {verdict.lost}; twice: {verdict.twice}")
    total["failover_s"][backend] = {fault: seconds(values) for fault, values in sorted(took.items())}


async def main():
    names = [
        "rounds",
        "overlaps",
        "epochs_out_of_order",
        "commands",
        "lost",
        "twice",
        "undelivered",
        "unexpected",
        "broken",
    ]
    total = {"bench": "faults"} | dict.fromkeys(names, 0) | {"failover_s": {}}
    for backend in os.environ.get("BACKENDS", "file,redis,swarm").split(","):
        with tempfile.TemporaryDirectory(prefix="ssn-") as folder:
            await torment(backend, Path(folder) / "n", total)
    print(json.dumps(total), flush=True)
    if any(total[name] for name in ("overlaps", "epochs_out_of_order", "lost", "twice", "broken")):
        sys.exit(1)


if __name__ == "__main__":
    asyncio.run(main())
