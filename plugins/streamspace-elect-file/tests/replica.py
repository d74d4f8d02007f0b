"""A replica as a process of its own: leads through the real elector, says so on stdout, obeys lines on stdin."""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path

from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_agent.errors import PreflightError
from streamspace_elect_file.backend import FileBackend
from streamspace_elect_file.fencing import Fence


def say(*words):
    print(*words, time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)


async def main(path, agent_id):
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    fence = Fence.of(os.environ, os.environ.get("DOCKER_HOST", ""))
    elector = Elector(FileBackend(Path(path), agent_id, fence=fence), Identity.discover(agent_id))
    await elector.start()

    async def beat():
        while True:
            elector.alive()
            await asyncio.sleep(0.25)

    beating = asyncio.create_task(beat())
    orders = asyncio.Queue()
    asyncio.get_running_loop().add_reader(0, lambda: orders.put_nowait(sys.stdin.readline().strip()))
    say("ready", os.getpid())
    try:
        while True:
            lease = await elector.lead()
            say("leads", lease.epoch)
            end = asyncio.create_task(lease.ended())
            order = asyncio.create_task(orders.get())
            await asyncio.wait([end, order], return_when=asyncio.FIRST_COMPLETED)
            if order.done() and order.result() == "fork":
                if os.fork() == 0:
                    time.sleep(60)  # noqa: ASYNC251 - the child has no loop any more
                    os._exit(0)
                say("forked", 0)
                order = asyncio.create_task(orders.get())
                await asyncio.wait([end, order], return_when=asyncio.FIRST_COMPLETED)
            if order.done() and order.result() == "loop":
                time.sleep(60)  # noqa: ASYNC251 - a dead main loop
            say("stopped", lease.epoch)
            await elector.resign(lease, "asked to", hold_off=3600)
            if order.done():
                break
            order.cancel()
    except PreflightError as error:
        say("refused", str(error).replace(" ", "_"))
        await elector.aclose()
        sys.exit(error.exit_code)
    beating.cancel()
    await elector.aclose()


asyncio.run(main(*sys.argv[1:]))
