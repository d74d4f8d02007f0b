"""A replica as a process of its own: leads through the real elector, writes each act to stdout, resigns when stdin
ends."""

import asyncio
import sys
import time
from dataclasses import replace

from streamspace_agent.config import Settings
from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_elect_redis.backend import RedisBackend


def say(*words):
    print(*words, time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)


async def main(url, docker_host, container):
    settings = Settings(agent_id="docker-lab", control_plane_url="ws://h", redis_url=url, docker_host=docker_host)
    me = replace(Identity.discover("docker-lab"), container_id=container)
    elector = Elector(RedisBackend.from_settings(settings, {}), me)
    await elector.start()

    async def beat():
        while True:
            elector.alive()
            await asyncio.sleep(0.25)

    asked = asyncio.Event()
    beating = asyncio.create_task(beat())
    asyncio.get_running_loop().add_reader(0, lambda: sys.stdin.read(1) or asked.set())
    say("ready", 0)
    while not asked.is_set():
        leading = asyncio.create_task(elector.lead())
        stop = asyncio.create_task(asked.wait())
        await asyncio.wait([leading, stop], return_when=asyncio.FIRST_COMPLETED)
        if not leading.done():
            leading.cancel()
            break
        lease = leading.result()
        while lease.valid() and not asked.is_set():
            say("acts", lease.epoch)
            await asyncio.sleep(0.02)
        say("stopped", lease.epoch)
        await elector.resign(lease, "asked to")
    asyncio.get_running_loop().remove_reader(0)
    beating.cancel()
    await elector.aclose()


asyncio.run(main(*sys.argv[1:]))
