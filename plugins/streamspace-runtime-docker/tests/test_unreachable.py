"""Why no engine answers: each cause is told with what to change, in a finding, an error and an event, and once."""

import asyncio
import os
import socket
import ssl
import struct
import tempfile
from pathlib import Path

import pytest
import trustme

from lab.loopback import served
from streamspace_agent.config import Settings
from streamspace_agent.errors import EngineUnavailable
from streamspace_agent.runtime import EventKind
from streamspace_agent.testing.runtime.fixtures import listening
from streamspace_runtime_docker import create_runtime_driver

NOBODY = 65534


@pytest.fixture
def make_lost_driver():
    """Drivers of an engine that does not answer."""
    made = []

    def make(docker_host, **environ):
        settings = Settings(agent_id="agent-1", control_plane_url="ws://127.0.0.1:1", docker_host=docker_host)
        made.append(create_runtime_driver(settings, environ))
        return made[-1]

    yield make
    for driver in made:
        asyncio.run(driver.aclose())


@pytest.fixture
def listened_on(tmp_path):
    """A Unix socket that a process listens on."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "docker.sock"))
        server.listen()
        yield tmp_path / "docker.sock"


def tls_server(context):
    async def serve(_reader, _writer):
        pass

    return served(serve, context)


async def told(driver):
    """The one finding, which the error of a verb and the event repeat word for word."""
    [problem] = await driver.check()
    assert problem.fatal
    with pytest.raises(EngineUnavailable) as failure:
        await driver.sessions()
    assert str(failure.value) == f"{problem.message}: {problem.fix}"
    assert "\n" not in str(failure.value)
    async with listening(driver, resync=False) as events:
        await asyncio.sleep(2.0)  # in which it tries at least four times
    assert [(event.kind, event.reason) for event in events] == [(EventKind.ENGINE_DOWN, str(failure.value))]
    return problem


async def test_a_missing_socket(make_lost_driver, tmp_path):
    problem = await told(make_lost_driver(f"unix://{tmp_path}/none.sock"))
    assert problem.message == f"DOCKER_HOST=unix://{tmp_path}/none.sock: no such file or directory"
    assert problem.fix.startswith("start Docker (systemctl start docker), or set DOCKER_HOST")
    assert "in a container, mount the socket" in problem.fix


async def test_a_socket_that_nobody_listens_on(make_lost_driver, listened_on, tmp_path):
    listened_on.rename(tmp_path / "aside")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(listened_on))
    problem = await told(make_lost_driver(f"unix://{listened_on}"))
    assert problem.message.endswith(": connection refused")
    assert problem.fix == "start Docker (systemctl start docker), or set DOCKER_HOST"


async def test_a_folder_where_the_socket_should_be(make_lost_driver, tmp_path):
    problem = await told(make_lost_driver(f"unix://{tmp_path}"))
    assert problem.message.endswith(": it is no socket")
    assert "mount the socket" in problem.fix


async def test_a_port_that_nobody_listens_on(make_lost_driver, unused_tcp_port):
    problem = await told(make_lost_driver(f"tcp://127.0.0.1:{unused_tcp_port}"))
    assert problem.message.endswith(": connection refused")
    assert "DOCKER_HOST" in problem.fix


@pytest.fixture
def as_nobody():
    """Everybody in this process has no more rights than nobody, for a moment."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)
    os.setegid(0)


@pytest.fixture
def forbidden_socket():
    """A socket like Docker's, of another group, in a folder that everybody may look into."""
    with tempfile.TemporaryDirectory(prefix="ss-") as folder, socket.socket(socket.AF_UNIX) as server:
        path = Path(folder, "docker.sock")
        server.bind(str(path))
        server.listen()
        os.chown(path, 0, 6)
        path.chmod(0o660)
        Path(folder).chmod(0o755)
        yield path


async def test_a_socket_of_another_group(make_lost_driver, forbidden_socket, as_nobody):
    problem = await told(make_lost_driver(f"unix://{forbidden_socket}"))
    assert problem.message.endswith(": permission denied")
    assert "usermod -aG disk USER" in problem.fix
    assert "SupplementaryGroups=disk in systemd" in problem.fix
    assert 'group_add: ["6"] in Compose' in problem.fix
    assert "AGENT_USER=10001:6" in problem.fix


def deny(path, user):
    """An access list (linux/posix_acl_xattr.h) that denies one user what his group may do, unseen in the mode."""
    entries = [(0x01, 6, -1), (0x02, 0, user), (0x04, 6, -1), (0x10, 6, -1), (0x20, 0, -1)]
    packed = b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)


async def test_a_socket_that_is_forbidden_in_spite_of_its_group(make_lost_driver, forbidden_socket, request):
    os.chown(forbidden_socket, 0, NOBODY)
    deny(forbidden_socket, NOBODY)
    request.getfixturevalue("as_nobody")
    problem = await told(make_lost_driver(f"unix://{forbidden_socket}"))
    assert problem.message.endswith(": permission denied")
    assert "SELinux" in problem.fix
    assert 'security_opt: ["label=disable"]' in problem.fix
    assert "usermod" not in problem.fix


async def test_a_socket_in_a_folder_of_somebody_else(make_lost_driver, forbidden_socket, request):
    forbidden_socket.parent.chmod(0o700)
    request.getfixturevalue("as_nobody")
    problem = await told(make_lost_driver(f"unix://{forbidden_socket}"))
    assert problem.message.endswith(": permission denied")
    assert problem.fix == f"let the agent's user (id {NOBODY}) into the folder of {forbidden_socket}"


TLS_SETTINGS = ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_HOST")


def write_certificates(folder, authority):
    mine = authority.issue_cert("agent@example.org")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    mine.private_key_pem.write_to_path(folder / "key.pem")


@pytest.fixture
def engine_tls():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_a_certificate_that_is_not_trusted(make_lost_driver, engine_tls, tmp_path):
    write_certificates(tmp_path, trustme.CA())
    async with tls_server(engine_tls) as port:
        driver = make_lost_driver(f"tcp://127.0.0.1:{port}", DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(tmp_path))
        problem = await told(driver)
    assert ": its certificate is not trusted: " in problem.message
    assert all(name in problem.fix for name in TLS_SETTINGS)


async def test_an_engine_that_speaks_no_tls(make_lost_driver, tmp_path):
    write_certificates(tmp_path, trustme.CA())

    async def serve(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with served(serve) as port:
        environ = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
        problem = await told(make_lost_driver(f"tcp://127.0.0.1:{port}", **environ))
    assert ": no TLS: " in problem.message
    assert all(name in problem.fix for name in TLS_SETTINGS)


async def test_an_engine_that_speaks_tls_to_an_agent_that_was_not_told(make_lost_driver):
    """Go's servers answer so."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        text = b"Client sent an HTTP request to an HTTPS server."
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n" + text)

    async with served(serve) as port:
        problem = await told(make_lost_driver(f"tcp://127.0.0.1:{port}"))
    assert problem.message.endswith(": it speaks TLS, the agent was not told to")
    assert all(name in problem.fix for name in TLS_SETTINGS)


async def test_certificates_that_are_not_there(make_lost_driver, tmp_path):
    problem = await told(
        make_lost_driver("tcp://127.0.0.1:1", DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(tmp_path / "none"))
    )
    assert all(name in problem.fix for name in TLS_SETTINGS)


@pytest.mark.slow
async def test_an_engine_that_keeps_silent(make_lost_driver, listened_on, monkeypatch):
    monkeypatch.setattr("streamspace_engine.engine.PING_TIMEOUT", 0.3)
    monkeypatch.setattr("streamspace_engine.engine.CALL_TIMEOUT", 0.3)
    problem = await told(make_lost_driver(f"unix://{listened_on}"))
    assert problem.message.endswith(": no answer in time")
