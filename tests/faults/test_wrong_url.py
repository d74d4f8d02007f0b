"""A CONTROL_PLANE_URL that leads nowhere, or to something else, is named as what it is."""

import contextlib
import socket

import pytest

from lab.loopback import served
from lab.until import until
from tests.names import UNKNOWN_HOST


@contextlib.asynccontextmanager
async def web_server(status, body=""):
    """Something else that speaks HTTP; yields its port and the requests' first lines."""
    asked = []

    async def serve(reader, writer):
        asked.append((await reader.readuntil(b"\r\n")).decode().strip())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()

    async with served(serve) as port:
        yield port, asked


@pytest.mark.parametrize("key", ["f" * 64, ""])
async def test_a_web_server_at_the_address_is_not_blamed_on_the_key_and_asked_again(make_agent, key):
    """It may be the proxy of a control plane that is being redeployed."""
    async with web_server(404, "404 page not found") as (port, asked):
        url = f"ws://127.0.0.1:{port}/portal"
        agent = await (await make_agent(CONTROL_PLANE_URL=url, AGENT_API_KEY=key, AGENT_API_KEY_FILE="")).start()
        await until(lambda: len(asked) >= 3)
        assert await agent.terminate() == 0
    assert set(asked) == {"POST /portal/api/v1/agents/register HTTP/1.1"}
    (told,) = [line for line in agent.log.splitlines() if "cannot register" in line]
    assert f"POST http://127.0.0.1:{port}/portal/api/v1/agents/register is not answered by the control plane" in told
    assert "HTTP 404" in told
    assert "check CONTROL_PLANE_URL and the proxy in front of it" in told
    assert "AGENT_API_KEY" not in told


async def test_a_refused_key_is_not_blamed_on_the_address(make_agent):
    async with web_server(401, '{"error": "unknown API key"}') as (port, _):
        variables = {"CONTROL_PLANE_URL": f"ws://127.0.0.1:{port}", "AGENT_API_KEY": "f" * 64}
        agent = await (await make_agent(**variables, AGENT_API_KEY_FILE="")).start()
        assert await agent.wait() == 3
    assert "CONTROL_PLANE_URL" not in agent.log.splitlines()[-1]


async def test_a_port_where_nobody_listens_and_a_name_that_does_not_resolve_are_told_with_the_variable(make_agent):
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
