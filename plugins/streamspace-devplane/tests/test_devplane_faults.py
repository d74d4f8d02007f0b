import asyncio
import time
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from lab.until import until
from streamspace_devplane import DevPlane, PlaneError

from .conftest import AGENT, Agent


async def test_drop_makes_chosen_envelopes_vanish_so_many_times(plane: DevPlane, agent: Agent) -> None:
    await plane.set_faults(drop={"types": ["ack"], "count": 1})
    command_id = await plane.start_session()
    await agent.send("ack", commandId=command_id)
    await agent.send("ack", commandId=command_id)
    assert (await plane.wait_command(command_id, "ack"))["acks"] == 1


async def test_duplicate_makes_a_command_arrive_twice(plane: DevPlane, agent: Agent) -> None:
    await plane.set_faults(duplicate={"direction": "to_agent", "types": ["command"], "count": 1})
    await plane.start_session()
    first, second = await agent.envelopes(2)
    assert first["payload"] == second["payload"]


async def test_delay_holds_envelopes_back_in_order(plane: DevPlane, agent: Agent) -> None:
    await plane.set_faults(delay={"seconds": 0.3, "direction": "to_agent"})
    began = time.monotonic()
    sent = [await plane.start_session() for _ in range(3)]
    arrived = await agent.envelopes(3)
    assert time.monotonic() - began >= 0.3
    assert [envelope["payload"]["commandId"] for envelope in arrived] == sent


async def test_pack_holds_envelopes_until_they_fill_a_frame(plane: DevPlane, agent: Agent) -> None:
    await plane.set_faults(pack={"count": 3, "seconds": 5})
    for _ in range(3):
        await plane.start_session()
    assert len(await agent.receive()) == 3


async def test_cut_tears_the_link_at_once(plane: DevPlane, agent: Agent) -> None:
    await plane.set_faults(cut={})
    with pytest.raises(ConnectionClosed) as closed:
        await agent.receive()
    assert closed.value.rcvd is None  # no closing handshake
    await plane.wait_agent(AGENT, status="offline")
    await agent.connect()  # once only


async def test_cut_can_wait_for_a_number_of_envelopes(plane: DevPlane, agent: Agent) -> None:
    await plane.set_faults(cut={"after": 2})
    command_id = await plane.start_session()
    await agent.receive()
    await agent.send("ack", commandId=command_id)
    with pytest.raises(ConnectionClosed):
        await agent.receive()
    assert (await plane.command(command_id))["acks"] == 1


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_refuse_answers_agents_with_a_status_but_serves_the_operator(
    plane: DevPlane, registered: Agent, status: int
) -> None:
    await plane.set_faults(refuse={"status": status, "retry_after": 7})
    answer = await registered.register()
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")
    with pytest.raises(InvalidStatus, match=str(status)):
        await registered.connect()
    await plane.clear_faults()
    assert (await registered.register()).status_code == 200


async def test_refuse_can_reset_connections_for_a_while(plane: DevPlane, registered: Agent) -> None:
    await plane.set_faults(refuse={"status": "connection", "seconds": 0.3})
    with pytest.raises(httpx.TransportError):
        await registered.register()
    with pytest.raises((InvalidHandshake, OSError, EOFError)):
        await registered.connect()

    async def over() -> bool:
        return (await plane.call("GET", "/faults"))["refuse"] is None

    await until(over)
    assert (await registered.register()).status_code == 200


async def test_a_blackhole_swallows_old_and_new_connections_until_it_ends(plane: DevPlane, agent: Agent) -> None:
    command_id = await plane.start_session()
    await agent.receive()
    await plane.set_faults(blackhole={})
    await agent.send("ack", commandId=command_id)
    registering = asyncio.create_task(agent.register())
    pong = asyncio.ensure_future(await agent.socket.ping())
    await plane.start_session()
    await asyncio.sleep(0.3)
    assert not registering.done()
    assert not pong.done()
    assert (await plane.command(command_id))["state"] == "sent"
    await plane.clear_faults()
    assert (await registering).status_code == 200
    await plane.wait_command(command_id, "ack")
    assert (await agent.receive())[0]["type"] == "command"
    await asyncio.wait_for(pong, 10)


async def test_switches_can_be_set_from_python(plane: DevPlane, agent: Agent) -> None:
    plane.faults.drop = {"types": ["command"]}  # type: ignore[assignment]  # pydantic makes a Drop of it
    assert plane.faults.drop is not None
    assert (await plane.call("GET", "/faults"))["drop"]["types"] == ["command"]


@pytest.mark.parametrize("switch", [{"dorp": {}}, {"drop": {"probability": 2}}, {"delay": {}}])
async def test_a_switch_that_makes_no_sense_is_refused(plane: DevPlane, switch: dict[str, object]) -> None:
    with pytest.raises(PlaneError, match="400"):
        await plane.set_faults(**switch)


async def test_an_abrupt_stop_tears_links_and_a_polite_one_closes_them(tmp_path: Path) -> None:
    plane = DevPlane(tmp_path / "plane.db")
    async with plane:
        agent = Agent(plane, key=await plane.issue_key(AGENT))
        await agent.register()
        for abruptly in (True, False):
            await agent.connect()
            await plane.stop(abruptly=abruptly)
            with pytest.raises(ConnectionClosed) as closed:
                await agent.receive()
            assert (closed.value.rcvd is None) is abruptly
            with pytest.raises(ConnectionRefusedError):
                await agent.connect()
            await plane.start()
