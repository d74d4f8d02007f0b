"""How the names of web sessions come to the gateway: the recipes of deployments/README.md, on a real dnsmasq and a
real nginx."""

import asyncio
import contextlib
import random
import re
import shutil

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import InvalidStatus

from lab import apt
from lab.process import free_ports
from lab.until import until
from tests.agent_process import AgentProcess
from tests.gateway import DOMAIN, Asker, House, answering, head_of
from tests.integration.deployments import readme

NAMES = "/etc/dnsmasq.d/streamspace.conf"
NOBODY = {404, 502}
"""What nginx answers for a session that no agent has: 502 where the last that it asked was a replica that does not
lead."""
NGINX = "/etc/nginx/conf.d/streamspace-web.conf"


@contextlib.asynccontextmanager
async def running(*command):
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 10)


async def accepts(host, port):
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    return True


@pytest.fixture
async def resolver(tmp_path):
    """A command's prefix under which names are resolved by a real dnsmasq with the README's line; it points to
    127.0.0.1."""
    await asyncio.to_thread(apt.require, "dnsmasq-base")
    server = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
    recipe = tmp_path / "streamspace.conf"
    recipe.write_text(re.sub(r"/10\.\d+\.\d+\.\d+$", "/127.0.0.1", readme.example(NAMES), flags=re.MULTILINE))
    (tmp_path / "resolv.conf").write_text(f"nameserver {server}\n")
    dnsmasq = [shutil.which("dnsmasq") or "/usr/sbin/dnsmasq", "--keep-in-foreground", f"--conf-file={recipe}"]
    dnsmasq += [f"--listen-address={server}", "--bind-interfaces", "--no-resolv", "--no-hosts", "--pid-file", "--user="]
    async with running(*dnsmasq):
        await until(lambda: accepts(server, 53), tolerate=(OSError,))
        mount = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"'
        yield ("unshare", "--mount", "sh", "-c", mount, "sh")


async def output(*command):
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode()


async def test_with_the_line_for_dnsmasq_the_name_of_any_session_leads_to_the_gateway(resolver):
    async with House.open() as house:
        await house.session("ann-firefox-00000001", answering(b"of ann"))
        name = f"ann-firefox-00000001.{DOMAIN}"
        script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
        said = await output(*resolver, "python3", "-c", script, f"http://{name}:{house.port}/")
        assert said == "of ann\n"
        assert "127.0.0.1" in await output(*resolver, "getent", "ahosts", f"bob-x-00000002.{DOMAIN}")


async def found(tmp_path, prefix, **variables):
    """What `docker-agent check` says of the gateway."""
    agent = AgentProcess(
        tmp_path / "agent",
        AGENT_ID="docker-1",
        CONTROL_PLANE_URL="ws://127.0.0.1:9",
        STATE_DIR=str(tmp_path),
        DOCKER_HOST="unix:///none",
        **variables,
    )
    agent.prefix = prefix
    _, answer = await agent.ask("check")
    return [(f["level"], f["message"]) for f in answer["findings"] if f["subject"] == "gateway"]


async def test_the_check_tells_whether_the_name_of_a_session_would_arrive(resolver, tmp_path):
    ((level, said),) = await found(tmp_path, resolver, WEB_GATEWAY="127.0.0.1:3000")
    assert (level, said) == (
        "ok",
        f"check.{DOMAIN} points from here to 127.0.0.1, where WEB_GATEWAY=127.0.0.1:3000 listens",
    )
    assert [level for level, _ in await found(tmp_path, resolver, WEB_GATEWAY="0.0.0.0:8080")] == ["ok"]
    ((level, said),) = await found(tmp_path, resolver, WEB_GATEWAY="127.0.0.2:3000")
    assert (level, "which is no address of WEB_GATEWAY=127.0.0.2:3000" in said) == ("warning", True)
    ((level, said),) = await found(tmp_path, (), WEB_GATEWAY="127.0.0.1:3000")
    assert (level, said) == ("warning", f"check.{DOMAIN} does not resolve from here")
    first, *_ = await found(tmp_path, (), WEB_GATEWAY="192.0.2.1:9000")
    assert first == ("warning", "WEB_GATEWAY listens at port 9000, the control plane connects to 3000, 6901, 8080")
    assert (await found(tmp_path, resolver))[0][0] == "ok"


@pytest.fixture
async def front(tmp_path):
    """A real nginx with the README's configuration before two agents' gateways and a replica that does not lead."""
    await asyncio.to_thread(apt.require, "nginx")
    async with House.open() as one, House.open() as two:
        backends, listens = iter([free_ports(1), one.port, two.port]), free_ports(3)
        recipe = readme.example(NGINX)
        recipe = re.sub(r"server 10\.\S+ max", lambda _: f"server 127.0.0.1:{next(backends)} max", recipe)
        ports = iter(range(listens, listens + 3))
        recipe = re.sub(r"listen 10\.\S+;", lambda _: f"listen 127.0.0.1:{next(ports)};", recipe)
        recipe = re.sub(r"allow 10\.\S+;", "allow 127.0.0.1;", recipe)
        assert "10.0." not in recipe
        (tmp_path / "streamspace.conf").write_text(recipe)
        folders = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
            f"http {{ access_log off; {folders} include {tmp_path}/streamspace.conf; }}\n"
        )
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        async with running(nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"):
            await until(lambda: accepts("127.0.0.1", listens), tolerate=(OSError,))
            asker = Asker(listens)
            asker.one, asker.two, asker.ports = one, two, range(listens, listens + 3)
            asker.folder = tmp_path
            yield asker
            await asker.hang_up()


async def test_nginx_finds_the_agent_of_a_session_among_many_for_any_method(front):
    taken = []

    async def handler(reader, writer):
        while head := await head_of(reader):
            length = re.search(rb"content-length: (\d+)", head.lower())
            body = await reader.readexactly(int(length[1])) if length else b""
            taken.append((head.split()[0], len(body)))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nof bob")

    await front.one.session("ann", answering(b"of ann"))
    await front.two.session("bob", handler)
    for port in front.ports:
        assert (await Asker(port).get("ann")).body == b"of ann"
    for method, body in [("GET", b""), ("POST", b"x" * 300_000), ("PUT", b"y"), ("DELETE", b"")] * 3:
        assert (await front.get("bob", method=method, body=body)).body == b"of bob"
    assert taken[-4:] == [(b"GET", 0), (b"POST", 300_000), (b"PUT", 1), (b"DELETE", 0)]
    for method in ("GET", "POST") * 3:
        assert (await front.get("nobody", method=method)).status in NOBODY


async def test_nginx_carries_websockets_to_the_agent_of_the_session(front):
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        front.two.put("bob", port=server.sockets[0].getsockname()[1])
        for _ in range(6):
            async with connect(f"ws://bob.{DOMAIN}/", host="127.0.0.1", port=front.port) as one:
                await one.send("hello")
                assert await asyncio.wait_for(one.recv(), 10) == "hello"
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://nobody.{DOMAIN}/", host="127.0.0.1", port=front.port)
        assert refused.value.response.status_code in NOBODY


async def test_nginx_finds_the_next_leader_at_once(front):
    await front.one.session("ann", answering(b"of ann"))
    assert (await front.get("ann")).status == 200
    async with House.open() as next_leader:
        next_leader.sessions |= front.one.sessions
        front.one.sessions.clear()
        # In place of the replica that did not lead: its address is the first in nginx's list.
        first = re.search(r"127\.0\.0\.1:(\d+) max", (await _recipe_of(front)))[1]
        next_leader.port = int(first)
        next_leader.gateway = type(next_leader.gateway)(f"127.0.0.1:{first}", "private", "repaired")
        async with next_leader.serving():
            assert (await front.get("ann")).body == b"of ann"


async def _recipe_of(front):
    return await asyncio.to_thread((front.folder / "streamspace.conf").read_text)
