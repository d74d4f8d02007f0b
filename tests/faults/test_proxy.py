"""A control plane that only a proxy can reach, which wants a name and a password."""

import asyncio
import base64
import contextlib
import ssl

import pytest
import trustme

from lab.loopback import served
from lab.until import until
from streamspace_agent.cli.check import check
from streamspace_agent.cli.findings import Level
from streamspace_agent.config import load
from streamspace_devplane import DevPlane
from tests.names import UNKNOWN_HOST

# What of a name fits into a certificate; it does not resolve either.
BEHIND = f"{UNKNOWN_HOST[-40:]}.invalid"
AUTHORIZATION = b"Basic " + base64.b64encode(b"agent:p@ss word")


@pytest.fixture
async def plane(tmp_path):
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(BEHIND).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with DevPlane(tmp_path / "tls-plane.db", tls=context) as plane:
        yield plane


async def copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy(plane):
    """Its port. It leads whoever may pass to the control plane, by whatever name that is asked for."""

    async def talk(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"Proxy-Authorization: " + AUTHORIZATION not in head.replace(b"proxy-authorization", b"Proxy-Authorization"):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        onwards, back = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(copy(reader, back), copy(onwards, writer))

    async with served(talk) as port:
        yield port


@pytest.fixture
def variables(plane, tmp_path):
    return {"CONTROL_PLANE_URL": f"wss://{BEHIND}:{plane.port}", "TLS_CA_FILE": str(tmp_path / "ca.pem")}


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_an_agent_registers_and_connects_through_it(make_agent, plane, agent_id, proxy, variables, scheme):
    through = f"{scheme}agent:p%40ss%20word@127.0.0.1:{proxy}"
    agent = await (await make_agent(**variables, HTTPS_PROXY=through)).start()
    await plane.wait_agent(agent_id)
    assert await agent.terminate() == 0
    assert "word" not in agent.log


async def test_a_password_that_is_not_taken_is_told_with_its_variable(make_agent, proxy, variables):
    agent = await (await make_agent(**variables, HTTPS_PROXY=f"http://agent:wrong-one@127.0.0.1:{proxy}")).start()
    await until(lambda: "HTTPS_PROXY: " in agent.log)
    assert ": 407 " in agent.log
    assert "wrong-one" not in agent.log
    assert await agent.terminate() == 0


async def test_a_kind_of_proxy_that_cannot_be_used_ends_the_start(make_agent, variables):
    agent = await (await make_agent(**variables, HTTPS_PROXY="socks5://127.0.0.1:1080")).start()
    assert await agent.wait() == 2
    assert "HTTPS_PROXY: a proxy of the kind socks5:// cannot be used" in agent.log
    assert "Traceback" not in agent.log


async def checked(variables, tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    environ = {
        "AGENT_ID": "behind",
        "STATE_DIR": str(tmp_path / "state"),
        "DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock",
        **variables,
    }
    found = [finding async for step in check(load(environ), environ) for finding in step]
    return [finding for finding in found if finding.subject in {"control plane", "key", "websocket"}]


async def test_the_check_looks_for_the_proxy_not_for_what_is_behind_it(plane, proxy, variables, tmp_path, monkeypatch):
    key = {"AGENT_API_KEY": await plane.issue_key("behind")}
    through = f"http://agent:p%40ss%20word@127.0.0.1:{proxy}"
    found = await checked(variables | key, tmp_path, monkeypatch, through)
    assert {finding.level for finding in found} == {Level.OK}
    assert found[0].message == f"the proxy 127.0.0.1:{proxy} accepts connections"
    found = await checked(variables | key, tmp_path, monkeypatch, f"http://{UNKNOWN_HOST}:3128")
    assert [(f.level, "HTTPS_PROXY" in f.fix) for f in found] == [(Level.FATAL, True)]
    found = await checked(variables | key, tmp_path, monkeypatch, f"http://127.0.0.1:{proxy}")
    assert found[-1].level is Level.FATAL
    assert "407" in found[-1].message
    assert "HTTPS_PROXY" in found[-1].fix
