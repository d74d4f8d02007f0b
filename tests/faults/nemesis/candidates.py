"""Many replicas that only stand for election. Each winner leads for a moment, resigns and stands again.

`python -m tests.faults.nemesis.candidates COUNT` runs that many in one process, each with an elector, a backend and
threads of its own, with the variables of the agents that they compete with. Ends in good order at SIGTERM.
"""

import asyncio
import os
import random
import signal
import sys

from streamspace_agent import config
from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.trace import Trace
from streamspace_agent.election.watchdog import TICK
from streamspace_agent.plugins import Plugins

LED = 0.05
"""Seconds that a winner leads, on average."""


async def candidate(elector):
    lease = None
    try:
        while True:
            lease = await elector.lead()
            await asyncio.sleep(random.uniform(0, 2 * LED))
            await elector.resign(lease, "it was only a candidate")
            lease = None
    finally:
        if lease is not None:
            await elector.resign(lease, "told to stop")
        await elector.aclose()


async def beat(electors):
    while True:
        for elector in electors:
            elector.alive()
        await asyncio.sleep(TICK)


async def main(count):
    settings = config.load(os.environ)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    electors = []
    for _ in range(count):
        me = Identity.discover(settings.agent_id)
        backend = Plugins().election_backend(settings, os.environ)
        electors.append(Elector(backend, me, trace=Trace(os.environ, me.instance)))
        await electors[-1].start()
    tasks = [asyncio.create_task(candidate(elector)) for elector in electors]
    beating = asyncio.create_task(beat(electors))
    await stopped.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    beating.cancel()


asyncio.run(main(int(sys.argv[1])))
