"""`docker-agent check` against control planes and what else may stand at their address."""

import asyncio
import contextlib
import datetime as dt
import signal
import socket
import ssl
import tempfile
from dataclasses import dataclass
from email.utils import format_datetime

import pytest
import trustme

from lab.loopback import served
from streamspace_agent.cli.check import check
from streamspace_agent.cli.findings import Level
from streamspace_agent.config import load
from streamspace_agent.controlplane.link import LinkStatus
from streamspace_agent.election.status import ElectionStatus, Role
from streamspace_agent.gateway import GatewayStatus
from streamspace_agent.health import Snapshot
from streamspace_agent.health.replicas import StatusSocket
from streamspace_agent.sessions.reconciler import EngineStatus
from tests.agent_process import AgentProcess
from tests.names import UNKNOWN_HOST

AGENT = "check-agent"


@dataclass
class Report:
    findings: list

    def of(self, subject):
        return [finding for finding in self.findings if finding.subject == subject]

    def only(self, subject):
        (finding,) = self.of(subject)
        return finding


@pytest.fixture
def report(tmp_path):
    async def run(url, **variables):
        environ = {
            "AGENT_ID": AGENT,
            "CONTROL_PLANE_URL": url,
            "STATE_DIR": str(tmp_path / "state"),
            "DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock",
            **variables,
        }
        return Report([finding async for step in check(load(environ), environ) for finding in step])

    return run


@contextlib.asynccontextmanager
async def http_server(answer, context=None):
    """Answers every request with the same bytes, or those that ``answer`` makes of it; yields host and port."""
    requests = []

    async def serve(reader, writer):
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answer(requests[-1]) if callable(answer) else answer)
        await writer.drain()

    async with served(serve, context) as port:
        yield f"127.0.0.1:{port}", requests


def answer(status, body="{}", kind="application/json", **headers):
    head = {"Content-Type": kind, "Content-Length": len(body), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in head.items()), "", body]
    return "\r\n".join(lines).encode()


async def test_a_good_key_is_told_without_registering_or_connecting(plane, report):
    found = await report(plane.ws_url, AGENT_API_KEY=await plane.issue_key(AGENT))
    assert found.only("key").level is Level.OK
    assert found.only("key").message == "the control plane accepts the API key"
    assert found.only("websocket").level is Level.OK
    assert found.only("clock").level is Level.OK
    assert await plane.agents() == []
    kinds = {event["type"] for event in await plane.events()}
    assert not kinds & {"register", "connected"}


@pytest.mark.parametrize("key", ["f" * 64, "short", ""])
async def test_a_bad_key_is_fatal_and_names_the_variable(plane, report, key):
    finding = (await report(plane.ws_url, AGENT_API_KEY=key)).only("key")
    assert finding.level is Level.FATAL
    assert "AGENT_API_KEY" in finding.message
    assert ": :" not in finding.message
    assert "AGENT_API_KEY_FILE" in finding.fix


async def test_another_agents_key_is_fatal_whether_or_not_the_control_plane_knows_this_agent(plane, report):
    found = await report(plane.ws_url, AGENT_API_KEY=await plane.issue_key("somebody-else"))
    assert found.only("key").level is Level.FATAL
    assert "HTTP 404" in found.only("key").message
    await plane.issue_key(AGENT)
    found = await report(plane.ws_url, AGENT_API_KEY=await plane.issue_key("somebody-else"))
    assert found.only("key").level is Level.FATAL
    assert "HTTP 403" in found.only("key").message


def leader(link, **more):
    states = ElectionStatus(), link, EngineStatus(up=True), GatewayStatus()
    return Snapshot(AGENT, "i", 1, 1, "h", "0", "file", Role.LEADER, *states, **more)


async def test_a_running_connected_agent_proves_key_and_websocket(plane, report, tmp_path):
    snapshot = leader(LinkStatus(connected=True))
    with StatusSocket(tmp_path / "state" / AGENT, "i", lambda: snapshot):
        found = await report(plane.ws_url, AGENT_API_KEY="f" * 64)
    assert found.only("key").message == found.only("websocket").message
    assert "the agent that runs here" in found.only("key").message


async def test_an_agent_that_runs_without_a_connection_proves_nothing_and_its_reason_is_told(plane, report, tmp_path):
    why = "waits for an administrator's approval of check-agent; asks again every 30 s"
    snapshot = leader(LinkStatus(connected=False, last_error=why))
    with StatusSocket(tmp_path / "state" / AGENT, "i", lambda: snapshot):
        found = await report(plane.ws_url, AGENT_API_KEY=await plane.issue_key(AGENT))
    assert found.of("control plane")[-1].message == f"the agent that runs here has no connection: {why}"
    assert found.only("key").level is Level.OK
    assert "in use" not in found.only("websocket").message


@pytest.mark.parametrize(("alone", "level"), [("true", Level.WARNING), ("false", Level.FATAL)])
async def test_a_taken_health_address_is_told_as_the_start_would(report, alone, level):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        found = await report("ws://127.0.0.1:9", HEALTH_ADDRESS=address, ENABLE_HA=alone)
        assert (found.only("health").level, found.only("health").message) == (
            level,
            f"HEALTH_ADDRESS={address}: cannot listen there: address already in use",
        )
        assert "range" in found.only("health").fix
    assert (await report("ws://127.0.0.1:9", HEALTH_ADDRESS=address)).of("health") == []
    elsewhere = (await report("ws://127.0.0.1:9", HEALTH_ADDRESS="192.0.2.1:9100", ENABLE_HA=alone)).only("health")
    assert elsewhere.level is Level.FATAL


async def test_a_health_address_that_the_agent_itself_serves_is_no_fault(report, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as own:
        address = f"127.0.0.1:{own.getsockname()[1]}"
        snapshot = leader(LinkStatus(), health_address=address)
        with StatusSocket(tmp_path / "state" / AGENT, "i", lambda: snapshot):
            assert (await report("ws://127.0.0.1:9", HEALTH_ADDRESS=address)).only("health").level is Level.OK


async def test_an_engine_that_is_away_is_fatal_with_the_socket_named(report):
    finding = (await report("ws://127.0.0.1:9")).of("engine")[0]
    assert finding.level is Level.FATAL
    assert finding.fix


async def test_a_name_that_does_not_resolve_is_told(report):
    (finding,) = (await report(f"wss://{UNKNOWN_HOST}")).of("control plane")
    assert finding.level is Level.FATAL
    assert finding.message.startswith(f"cannot resolve {UNKNOWN_HOST}: ")


async def test_a_key_that_a_wrong_one_equals_is_not_called_good(report):
    async with http_server(answer(400, '{"error": "Validation failed"}')) as (address, _):
        finding = (await report(f"ws://{address}", AGENT_API_KEY="f" * 64)).only("key")
    assert finding.level is Level.WARNING
    assert finding.message.startswith("cannot tell without registering")


@pytest.mark.parametrize("status", [200, 403, 404, 405, 500, 501])
@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        ("<h1>Not here</h1>", "text/html", ": an HTML page"),
        ("404 page not found", "text/plain", ": 404 page not found"),
        ("{}", "application/json", ": {}"),
        ("", "text/plain", ""),
    ],
)
async def test_a_server_that_is_no_control_plane_is_fatal_and_named_so(report, status, body, kind, told):
    async with http_server(answer(status, body, kind)) as (address, _):
        found = await report(f"ws://{address}", AGENT_API_KEY="f" * 64)
    finding = found.of("control plane")[-1]
    assert finding.level is Level.FATAL
    url = f"http://{address}/api/v1/agents/register"
    assert finding.message == f"POST {url} is not answered by the control plane: HTTP {status}{told}"
    assert "CONTROL_PLANE_URL" in finding.fix
    assert found.of("key") == found.of("websocket") == []


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_whose_control_plane_is_away_is_a_warning_without_its_page(report, status):
    async with http_server(answer(status, "<html>bad</html>", "text/html")) as (address, _):
        finding = (await report(f"ws://{address}", AGENT_API_KEY="f" * 64)).of("control plane")[-1]
    assert finding.level is Level.WARNING
    assert finding.message.endswith(f"is not answered by the control plane: HTTP {status}: an HTML page")
    assert "behind that proxy" in finding.fix


async def test_an_agent_that_the_control_plane_does_not_know_is_told_in_its_words(report):
    said = (
        '{"agentId": "check-agent", "error": "Agent not found", "details": "Agent must be pre-registered '
        'or use a valid bootstrap key"}'
    )
    async with http_server(answer(404, said)) as (address, _):
        finding = (await report(f"ws://{address}", AGENT_API_KEY="f" * 64)).only("key")
    assert finding.level is Level.FATAL
    assert "Agent not found" in finding.message
    assert "bootstrap key" in finding.message


async def test_a_bootstrap_key_is_good_where_a_wrong_one_leaves_the_agent_unknown(report):
    first, wrong = answer(400, '{"error": "Validation failed"}'), answer(404, '{"error": "Agent not found"}')
    async with http_server(lambda request: wrong if "0" * 64 in request else first) as (address, _):
        finding = (await report(f"ws://{address}", AGENT_API_KEY="f" * 64)).only("key")
    assert (finding.level, finding.message) == (Level.OK, "the control plane accepts the API key")


@pytest.mark.parametrize("status", [200, 426, 502])
async def test_a_proxy_that_does_not_upgrade_is_told(report, status):
    said, page = answer(400, '{"error": "Validation failed"}'), answer(status, "<html>no</html>", "text/html")
    async with http_server(lambda request: said if request.startswith("POST") else page) as (address, requests):
        finding = (await report(f"ws://{address}", AGENT_API_KEY="f" * 64)).only("websocket")
    assert finding.level is Level.FATAL
    assert finding.message.endswith(f"HTTP {status}: an HTML page")
    upgrade = next(request for request in requests if request.startswith("GET"))
    assert "agent_id" not in upgrade.splitlines()[0]


@pytest.mark.parametrize(("hours", "word"), [(1, "behind"), (-1, "ahead of")])
async def test_a_wrong_clock_is_a_warning_with_the_difference(report, hours, word):
    there = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
    async with http_server(answer(401, Date=format_datetime(there, usegmt=True))) as (address, _):
        finding = (await report(f"ws://{address}")).only("clock")
    assert finding.level is Level.WARNING
    assert word in finding.message


async def test_what_an_answer_quotes_of_the_key_is_not_shown(report):
    key = "5ecre7" * 10
    async with http_server(answer(401, f'{{"error": "bad key {key}"}}')) as (address, _):
        found = await report(f"ws://{address}", AGENT_API_KEY=key)
    assert any("bad key" in finding.message for finding in found.findings)
    assert not any(key in finding.message for finding in found.findings)


def tls(authority, *names, expired=False):
    """A server's context with a certificate for these names."""
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **({"not_after": past} if expired else {})).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("names", "expired", "trusted", "message", "fix"),
    [
        (("127.0.0.1",), False, False, "unable to get local issuer", "TLS_CA_FILE"),
        (("other.example.com",), False, True, "not valid for '127.0.0.1'", "CONTROL_PLANE_URL"),
        (("127.0.0.1",), True, True, "expired", "renewed"),
    ],
)
async def test_a_bad_certificate_is_fatal_with_its_reason(report, tmp_path, names, expired, trusted, message, fix):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    variables = {"TLS_CA_FILE": str(tmp_path / "ca.pem")} if trusted else {}
    async with http_server(answer(401), tls(authority, *names, expired=expired)) as (address, requests):
        found = await report(f"wss://{address}", **variables)
    finding = found.of("control plane")[-1]
    assert finding.level is Level.FATAL
    assert message in finding.message
    assert fix in finding.fix
    assert not requests


async def test_a_good_certificate_is_told_with_its_remaining_days(report, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with http_server(answer(401, '{"error": "Invalid API key"}'), tls(authority, "127.0.0.1")) as (address, _):
        found = await report(f"wss://{address}", TLS_CA_FILE=str(tmp_path / "ca.pem"))
    assert any("certificate is trusted" in finding.message for finding in found.of("control plane"))
    assert found.only("key").level is Level.FATAL


async def test_an_address_that_speaks_no_tls_is_told(report):
    async with http_server(answer(400)) as (address, _):
        finding = (await report(f"wss://{address}")).of("control plane")[-1]
    assert finding.message == f"no TLS with {address}: the port speaks plain HTTP"
    assert "ws://" in finding.fix


async def test_a_port_that_speaks_neither_is_told_with_the_reason_of_the_handshake(report):
    async with http_server(b"220 mail ready\r\n" * 20) as (address, _):
        finding = (await report(f"wss://{address}")).of("control plane")[-1]
    assert finding.message.startswith(f"no TLS with {address}: ")
    assert "not permitted" not in finding.message
    assert "CONTROL_PLANE_URL's port speaks TLS" in finding.fix


async def test_hints_about_settings_are_warnings(report):
    found = (await report("ws://127.0.0.1:9", LEADER_ELECTON_BACKEND="redis", LOCK_FILE_PATH="/x")).of("settings")
    assert [finding.level for finding in found] == [Level.WARNING] * 2
    assert "ENABLE_HA=true" in found[0].message
    assert "LEADER_ELECTION_BACKEND?" in found[1].message


async def test_the_election_store_is_looked_at(report):
    # A file system that carries locks: the temporary folder may be a container's own layer, which is refused.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        variables = {"ENABLE_HA": "true", "LOCK_FILE_PATH": f"{folder}/agent.lock"}
        finding = (await report("ws://127.0.0.1:9", **variables)).of("election")[-1]
    assert (finding.level, finding.message) == (Level.OK, "the store answers; nobody leads now")


async def test_a_lease_duration_that_counts_for_nothing_is_told_once_by_the_check_and_at_the_start(report, tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        variables = {"ENABLE_HA": "true", "LOCK_FILE_PATH": f"{folder}/agent.lock", "LEASE_DURATION": "20s"}
        warning, _ = (await report("ws://127.0.0.1:9", **variables)).of("election")
        variables |= {"AGENT_ID": AGENT, "CONTROL_PLANE_URL": "ws://127.0.0.1:9", "STATE_DIR": f"{folder}/state"}
        agent = await AgentProcess(tmp_path / "agent", **variables).start()
        try:
            async with asyncio.timeout(30):
                while "holds no record of its own" not in agent.log:  # what it says next
                    await asyncio.sleep(0.05)
        finally:
            await agent.kill()
    assert (warning.level, warning.fix) == (Level.WARNING, "unset LEASE_DURATION")
    assert agent.log.count(warning.message) == 1


async def test_an_election_store_that_cannot_work_is_fatal_with_the_fix(report):
    variables = {"ENABLE_HA": "true", "LOCK_FILE_PATH": "/dev/shm"}
    finding = (await report("ws://127.0.0.1:9", **variables)).of("election")[-1]
    assert finding.level is Level.FATAL
    assert "LOCK_FILE_PATH" in finding.message
    assert finding.fix


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_named_with_the_setting_it_belongs_in_and_not_followed(report, status):
    async with http_server(answer(200)) as (other, asked_there):
        moved = answer(status, "", Location=f"https://{other}/api/v1/agents/register")
        async with http_server(moved) as (address, _):
            found = await report(f"ws://{address}", AGENT_API_KEY="f" * 64)
        assert asked_there == []
    finding = found.only("key")
    assert finding.level is Level.FATAL
    assert f"a redirect to https://{other}, which is not followed" in finding.message
    assert "CONTROL_PLANE_URL" in finding.fix
    assert "upgrade" not in "".join(f"{finding.message} {finding.fix}" for finding in found.findings)


async def test_a_leader_on_this_host_that_is_frozen_is_fatal_and_named(report, tmp_path, monkeypatch):
    monkeypatch.setattr("streamspace_agent.health.replicas.TIMEOUT", 1.0)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        shared = {"ENABLE_HA": "true", "LOCK_FILE_PATH": f"{folder}/agent.lock", "STATE_DIR": f"{folder}/state"}
        agent = AgentProcess(tmp_path / "agent", AGENT_ID=AGENT, CONTROL_PLANE_URL="ws://127.0.0.1:9", **shared)
        await agent.start()
        try:
            async with asyncio.timeout(30):
                while f" gained leadership of {AGENT} " not in agent.log:
                    await asyncio.sleep(0.05)
            agent.signal(signal.SIGSTOP)
            finding = (await report("ws://127.0.0.1:9", **shared)).of("election")[-1]
        finally:
            await agent.kill()
    assert finding.level is Level.FATAL
    assert "runs on this host and does not answer within 1 s: it is frozen" in finding.message
    assert "kill -CONT" in finding.fix
