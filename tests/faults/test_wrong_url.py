"""A CONTROL_PLANE_URL that leads nowhere, or to something else, is named as what it is."""

import contextlib
import socket

import pytest

from lab.loopback import served
from tests.names import UNKNOWN_HOST


@contextlib.asynccontextmanager
async def web_server(status):
    """Something else that speaks HTTP; yields its port and the requests' first lines."""
    asked = []

    async def serve(reader, writer):
        asked.append((await reader.readuntil(b"\r\n")).decode().strip())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()

    async with served(serve) as port:
        yield port, asked


@pytest.mark.parametrize("key", ["f" * 64, ""])
async def test_a_web_server_at_the_address_is_not_blamed_on_the_key_alone(make_agent, key):
    async with web_server(404) as (port, asked):
        url = f"ws://127.0.0.1:{port}/portal"
        agent = await (await make_agent(CONTROL_PLANE_URL=url, AGENT_API_KEY=key, AGENT_API_KEY_FILE="")).start()
        assert await agent.wait() == 3
    assert asked == ["POST /portal/api/v1/agents/register HTTP/1.1"]
    last = agent.log.splitlines()[-1]
    assert last.startswith("docker-agent: CONTROL_PLANE_URL is wrong, or AGENT_API_KEY ")
    assert f"HTTP 404 to POST http://127.0.0.1:{port}/portal/api/v1/agents/register" in last
    assert "check CONTROL_PLANE_URL first, then the key" in last


async def test_a_refused_key_is_not_blamed_on_the_address(make_agent):
    async with web_server(401) as (port, _):
        variables = {"CONTROL_PLANE_URL": f"ws://127.0.0.1:{port}", "AGENT_API_KEY": "f" * 64}
        agent = await (await make_agent(**variables, AGENT_API_KEY_FILE="")).start()
        assert await agent.wait() == 3
    assert "CONTROL_PLANE_URL" not in agent.log.splitlines()[-1]


async def test_a_port_where_nobody_listens_and_a_name_that_does_not_resolve_are_told_with_the_variable(
    make_agent, until
):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        for url, cause in {
            f"ws://127.0.0.1:{unused.getsockname()[1]}": "Connection refused",
            f"wss://{UNKNOWN_HOST}": "Name or service not known",
        }.items():
            agent = await (await make_agent(url[:3], CONTROL_PLANE_URL=url)).start()
            line = f"cannot register at CONTROL_PLANE_URL={url}: "
            await until(lambda agent=agent, line=line: line in agent.log)
            (told,) = (text for text in agent.log.splitlines() if line in text)
            assert cause in told or "name resolution" in told
            assert "trying again until it works" in told
            assert await agent.terminate() == 0
