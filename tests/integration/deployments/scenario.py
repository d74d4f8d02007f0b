"""What every way of deployment has to prove, with its own ways of asking and killing."""

import asyncio
import time
from contextlib import asynccontextmanager


async def connections(plane, agent_id, after=0):
    return await plane.events(after, type="connected", agent_id=agent_id)


@asynccontextmanager
async def led(plane, agent_id):
    """Bring it up inside; prints the seconds from its beginning until the control plane has accepted a leader."""
    began = time.time()
    yield
    await plane.wait_agent(agent_id, timeout=60)
    print(f"a leader after {(await connections(plane, agent_id))[0]['time'] - began:.2f} s")


async def until_taken_over(plane, agent_id, kill, timeout=30.0):
    """Seconds from the blow until the control plane has accepted another connection of this agent."""
    after = (await plane.events())[-1]["seq"]
    began = time.monotonic()
    blow = asyncio.create_task(asyncio.to_thread(kill))  # it may return late, as `docker stop` does
    while not await connections(plane, agent_id, after):
        assert time.monotonic() - began < timeout, f"no new connection within {timeout} s"
        await asyncio.sleep(0.01)
    took = time.monotonic() - began
    await blow
    return took


async def killed_until_taken_over_within(plane, agent_id, seconds, leader, kills=3):
    """Kill the containers that `leader` gives, up to three, until one is replaced in the time that election.md grants;
    a busy machine may be late once. All times are printed."""
    took = []
    while len(took) < kills and min(took, default=seconds + 1) > seconds:
        took.append(await until_taken_over(plane, agent_id, (await leader()).kill))
    print(f"taken over after {', '.join(f'{one:.2f} s' for one in took)}")
    assert min(took) <= seconds


async def start(plane, manifest, session):
    await plane.wait_command(
        await plane.start_session(session_id=session, manifest=manifest(), persistentHome=True), timeout=60
    )
    assert (await plane.wait_session(session, state="running"))["vncReady"]


async def still_controllable(plane, session):
    """The session sleeps, wakes and ends as if nothing had been."""
    await plane.wait_command(await plane.hibernate_session(session))
    await plane.wait_session(session, state="hibernated")
    await plane.wait_command(await plane.wake_session(session))
    await plane.wait_session(session, state="running", vnc_ready=True)
    await plane.wait_command(await plane.stop_session(session, deletePVC=True))
    await plane.wait_session(session, state="terminated")
