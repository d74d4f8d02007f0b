import contextlib
import errno
import http.client
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab import process
from streamspace_agent import config, logs
from streamspace_agent.agent import Agent
from streamspace_agent.cli import healthcheck, status
from streamspace_agent.controlplane.link import LinkStatus
from streamspace_agent.election.status import ElectionStatus, Role
from streamspace_agent.errors import ConfigError
from streamspace_agent.gateway import GatewayStatus
from streamspace_agent.health import (
    MAX_TICK_AGE,
    Commands,
    Snapshot,
    document,
    metrics,
    replicas,
    to_json,
)
from streamspace_agent.health.endpoint import HealthEndpoint
from streamspace_agent.health.replicas import StatusSocket
from streamspace_agent.health.systemd import Notifier
from streamspace_agent.sessions.reconciler import EngineStatus
from tests.names import UNKNOWN_HOST

NAMESPACE = Path("/proc/self/ns/pid").stat().st_ino
LEADER = Snapshot(
    "agent-1",
    "host-1",
    os.getpid(),
    NAMESPACE,
    "host",
    "0.1.0",
    "file",
    Role.LEADER,
    ElectionStatus(
        leader="host-1",
        epoch=17,
        gained={"released": 2},
        lost={"lease lost": 1},
        seconds_as_leader=60.5,
        renewed_age=0.2,
    ),
    LinkStatus(connected=True, connections=3),
    EngineStatus(up=True),
    GatewayStatus({"10.0.0.5:3000": ""}, 2, {"passed": 7}),
    heartbeat_age=3.5,
    sessions={"running": 3, "hibernated": 1},
    commands=Commands(running=1, open=2, done={"start_session": {"completed": 5, "failed": 1}}),
    outbox=4,
)
STANDBY = replace(LEADER, instance="host-2", role=Role.STANDBY, link=LinkStatus(), engine=EngineStatus())
BLOCKED = replace(LEADER, loop_tick_age=MAX_TICK_AGE + 1)


@pytest.mark.parametrize(
    ("snapshot", "problem"),
    [
        (LEADER, None),
        (STANDBY, None),
        (replace(LEADER, link=LinkStatus(last_error="connection refused")), "control plane: connection refused"),
        (replace(LEADER, gateway=GatewayStatus({"h:1": "in use"})), "WEB_GATEWAY=h:1: cannot listen there: in use"),
        (replace(LEADER, engine=EngineStatus(last_error="no socket")), "engine does not answer: no socket"),
        (replace(STANDBY, election=ElectionStatus(store_error="timeout")), "store does not answer: timeout"),
        (
            replace(STANDBY, election=replace(LEADER.election, leader_frozen=True, leader_silence=12.3)),
            "the leader host-1 has shown no sign of life for 12 s",
        ),
        (replace(STANDBY, hindrance="the disk is full"), "cannot lead: the disk is full"),
        (replace(LEADER, role=Role.STARTING), "starting"),
        (replace(LEADER, role=Role.DRAINING), "draining"),
        (BLOCKED, "main loop has not turned for 11 s"),
    ],
)
def test_a_replica_is_ready_when_it_serves_its_purpose(snapshot, problem):
    said = document(snapshot)
    assert said["ready"] is (problem is None)
    assert (problem or "") in "; ".join(said["problems"])
    assert bool(said["problems"]) is bool(problem)


WHOLE = replace(
    LEADER,
    pid=42,
    pid_namespace=4026531836,
    election=replace(LEADER.election, since=1767323045.0, lost={"taken": 1}),
    link=replace(LEADER.link, since=1767323046.0),
    capacity={"maxSessions": 100},
    loop_tick_age=0.25,
    plugins={"runtime": "streamspace-runtime-docker 0.1.0"},
    health_address="127.0.0.1:9100",
)
DOCUMENT = """\
{"agent_id": "agent-1", "instance": "host-1", "pid": 42, "pid_namespace": 4026531836, "host": "host",
"version": "0.1.0",
"role": "leader", "epoch": 17,
"leader": "host-1", "since": "2026-01-02T03:04:05Z",
"election": {"backend": "file", "store_up": true, "last_error": "",
"gained": {"released": 2}, "lost": {"taken": 1}, "leader_seconds": 60.5,
"renewed_age": 0.2, "leader_silence": 0.0, "leader_frozen": false},
"link": {"connected": true, "since": "2026-01-02T03:04:06Z", "reconnects": 2, "last_error": "", "heartbeat_age": 3.5},
"engine": {"up": true, "last_error": ""}, "sessions": {"running": 3, "hibernated": 1},
"capacity": {"maxSessions": 100}, "commands": {"running": 1, "open": 2,
"done": {"start_session": {"completed": 5, "failed": 1}}},
"gateway": {"addresses": {"10.0.0.5:3000": ""}, "connections": 2, "requests": {"passed": 7}},
"outbox": 4, "hindrance": "",
"loop_tick_age": 0.25, "plugins": {"runtime": "streamspace-runtime-docker 0.1.0"}, "health_address": "127.0.0.1:9100",
"alive": true, "ready": true, "problems": []}
"""


def test_the_names_and_the_order_of_the_status_document_stay_as_they_are():
    assert to_json(WHOLE).decode() == DOCUMENT.replace("\n", " ").strip()


# The status socket


def test_a_replica_answers_on_its_socket_with_one_json_document(tmp_path):
    with StatusSocket(tmp_path, "host-1", lambda: LEADER) as served:
        for _ in range(3):
            (found,) = replicas.replicas(tmp_path)
            assert found.document == json.loads(json.dumps(document(LEADER)))
            assert found.leads
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    assert list(replicas.replicas(tmp_path)) == []
    assert not served.path.exists()


def test_only_a_leader_with_a_connection_counts_as_leading(tmp_path):
    cut_off = replace(LEADER, instance="host-3", link=LinkStatus())
    with contextlib.ExitStack() as stack:
        for snapshot in (LEADER, STANDBY, cut_off):
            stack.enter_context(StatusSocket(tmp_path, snapshot.instance, lambda snapshot=snapshot: snapshot))
        assert {r.name: r.leads for r in replicas.replicas(tmp_path)} == {
            "host-1": True,
            "host-2": False,
            "host-3": False,
        }


@pytest.mark.parametrize("instance", ["long-" * 40, "a/../../b", ".hidden", "ünïcode", ""])
def test_any_instance_name_and_a_long_agent_id_make_a_socket(tmp_path, instance):
    agent_dir = tmp_path / ("a" * 100)
    with StatusSocket(agent_dir, instance, lambda: replace(LEADER, instance=instance)) as served:
        (found,) = replicas.replicas(agent_dir)
        assert found.document["instance"] == instance
        assert served.path.parent == agent_dir / "replicas"


def test_sockets_of_dead_replicas_are_passed_over_and_removed_by_the_next_that_starts(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from streamspace_agent.health.replicas import StatusSocket;"
        "StatusSocket(Path(sys.argv[1]), 'dead', lambda: None).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False, timeout=60).returncode == 9
    dead = tmp_path / "replicas" / "dead.sock"
    assert dead.is_socket()
    assert list(replicas.replicas(tmp_path)) == []
    assert dead.exists()
    with StatusSocket(tmp_path, "host-1", lambda: LEADER), StatusSocket(tmp_path, "host-2", lambda: STANDBY):
        assert not dead.exists()
        assert [r.name for r in replicas.replicas(tmp_path)] == ["host-1", "host-2"]


def test_a_replica_that_takes_a_name_of_a_dead_one_replaces_its_socket(tmp_path):
    folder = tmp_path / "replicas"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "host-1.sock"))
    with StatusSocket(tmp_path, "host-1", lambda: LEADER):
        assert [r.leads for r in replicas.replicas(tmp_path)] == [True]


def test_a_frozen_replica_is_told_from_a_dead_one(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "TIMEOUT", 0.2)
    (tmp_path / "replicas").mkdir()
    with socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(str(tmp_path / "replicas" / "host-9.sock"))
        frozen.listen()
        (found,) = replicas.replicas(tmp_path, remove_dead=True)
    assert found.document is None
    assert "frozen" in found.error
    assert healthcheck.verdict([found], NAMESPACE, ready=False)[0] is False


@pytest.mark.parametrize("leader", ["host-9", "a-host-with-a-long-name-" * 4])
def test_a_frozen_leader_of_this_host_is_not_told_to_lead_from_another(tmp_path, monkeypatch, leader):
    monkeypatch.setattr(replicas, "TIMEOUT", 0.2)
    thawed, standby = threading.Event(), replace(STANDBY, election=replace(LEADER.election, leader=leader))
    with (
        StatusSocket(tmp_path, leader, lambda: thawed.wait() and LEADER),
        StatusSocket(tmp_path, "host-2", lambda: standby),
    ):
        lines = list(status.table(list(replicas.replicas(tmp_path))))
        thawed.set()
    assert any("it is frozen" in line for line in lines)
    assert not any("another host" in line for line in lines)


def test_an_answer_that_is_no_document_is_told(tmp_path):
    (tmp_path / "replicas").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "replicas" / "odd.sock"))
        server.listen()

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"[1]")

        thread = threading.Thread(target=answer)
        thread.start()
        (found,) = replicas.replicas(tmp_path)
        thread.join()
    assert "not a JSON object" in found.error


def test_a_failing_snapshot_closes_the_connection_and_not_the_server(tmp_path, caplog):
    answers = iter([RuntimeError("boom"), LEADER])

    def source():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with StatusSocket(tmp_path, "host-1", source):
        assert [r.document for r in replicas.replicas(tmp_path)] == [None]
        assert [r.leads for r in replicas.replicas(tmp_path)] == [True]
    assert "boom" in caplog.text


def test_an_error_in_the_status_loses_its_secrets(tmp_path):
    snapshot = replace(LEADER, link=LinkStatus(last_error="redis://u:hunter22@h"))
    with StatusSocket(tmp_path, "host-1", lambda: snapshot):
        (found,) = replicas.replicas(tmp_path)
    assert found.document["link"]["last_error"] == f"redis://u:{logs.MASK}@h"


def listing(*snapshots):
    return [replicas.Replica(s.instance, document(s)) for s in snapshots]


@pytest.mark.parametrize(
    ("found", "ready", "verdict"),
    [
        (listing(LEADER), False, True),
        (listing(replace(LEADER, link=LinkStatus())), False, True),
        (listing(replace(LEADER, link=LinkStatus())), True, False),
        (listing(BLOCKED), False, False),
        (listing(replace(LEADER, pid_namespace=1)), False, False),
        (listing(replace(BLOCKED, pid_namespace=1), STANDBY), False, True),
        ([], False, False),
    ],
)
def test_a_container_is_judged_by_its_own_replica_alone(found, ready, verdict):
    healthy_now, text = healthcheck.verdict(found, NAMESPACE, ready=ready)
    assert healthy_now is verdict
    assert len(text.splitlines()) == 1


# The HTTP endpoint


@contextlib.contextmanager
def endpoint(source, address="127.0.0.1:0"):
    with HealthEndpoint(address, source) as served:
        yield lambda path: get(served.port, path)


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("snapshot", "healthz", "readyz"),
    [
        (LEADER, 200, 200),
        (STANDBY, 200, 200),
        (replace(LEADER, link=LinkStatus()), 200, 503),
        (replace(LEADER, role=Role.DRAINING), 200, 503),
        (BLOCKED, 503, 503),
    ],
)
def test_healthz_asks_for_life_and_readyz_for_purpose(snapshot, healthz, readyz):
    with endpoint(lambda: snapshot) as ask:
        assert (ask("/healthz")[0], ask("/readyz")[0]) == (healthz, readyz)
        assert ask("/readyz")[1] == ("ok\n" if readyz == 200 else "\n".join(snapshot.unready()) + "\n")


def test_status_is_the_document_and_an_unknown_path_names_the_known_ones():
    with endpoint(lambda: LEADER) as ask:
        assert json.loads(ask("/status?pretty")[1]) == json.loads(json.dumps(document(LEADER)))
        assert ask("/")[0] == 404
        assert "/metrics" in ask("/")[1]


def test_head_is_answered_without_a_body():
    with HealthEndpoint("127.0.0.1:0", lambda: LEADER) as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        connection.request("HEAD", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


def test_it_answers_while_a_client_that_says_nothing_is_connected():
    with HealthEndpoint("127.0.0.1:0", lambda: LEADER) as served, socket.create_connection(("127.0.0.1", served.port)):
        assert get(served.port, "/healthz")[0] == 200


def test_a_failing_snapshot_is_a_500_and_not_the_end(caplog):
    answers = [LEADER]
    with endpoint(answers.pop) as ask:
        assert [ask("/healthz")[0] for _ in range(2)] == [200, 500]
    assert "cannot answer /healthz" in caplog.text


@pytest.mark.parametrize("address", ["192.0.2.1:80", f"{UNKNOWN_HOST}:80"])
def test_an_address_that_cannot_be_listened_on_names_the_variable(address):
    with pytest.raises(ConfigError, match=f"^HEALTH_ADDRESS={address}: cannot listen there: "):
        HealthEndpoint(address, lambda: LEADER)


def test_an_address_in_use_names_the_variable():
    with HealthEndpoint("127.0.0.1:0", lambda: LEADER) as first, pytest.raises(ConfigError, match="in use"):
        HealthEndpoint(f"127.0.0.1:{first.port}", lambda: LEADER)


def test_of_a_range_each_endpoint_takes_the_first_free_port_and_a_full_one_names_the_variable():
    first = process.free_ports(2)
    address = f"127.0.0.1:{first}-{first + 1}"
    with HealthEndpoint(address, lambda: LEADER) as taken:
        assert taken.address == f"127.0.0.1:{first}"
        with HealthEndpoint(address, lambda: LEADER) as second:
            assert second.address == f"127.0.0.1:{first + 1}"
            assert get(second.port, "/healthz")[0] == 200
            with pytest.raises(ConfigError, match=f"^HEALTH_ADDRESS={address}: .* in use$"):
                HealthEndpoint(address, lambda: LEADER)


def test_an_address_that_replicas_share_is_served_as_soon_as_it_is_free(monkeypatch, caplog):
    monkeypatch.setattr("streamspace_agent.health.endpoint.RETRY", 0.05)
    with contextlib.ExitStack() as stack:
        with HealthEndpoint("127.0.0.1:0", lambda: LEADER) as first:
            port = first.port
            second = stack.enter_context(HealthEndpoint(f"127.0.0.1:{port}", lambda: STANDBY, shared=True))
            assert (second.port, second.address) == (0, "")
            assert "A range" in caplog.text
            assert json.loads(get(port, "/status")[1])["role"] == "leader"
        deadline = time.monotonic() + 10
        while not second.address:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert json.loads(get(port, "/status")[1])["role"] == "standby"


def test_a_shared_address_that_can_never_be_listened_on_is_an_error_all_the_same():
    with pytest.raises(ConfigError, match="^HEALTH_ADDRESS=192.0.2.1:80: cannot listen there: "):
        HealthEndpoint("192.0.2.1:80", lambda: LEADER, shared=True)


def test_an_endpoint_that_still_waits_for_its_port_ends_at_once():
    with HealthEndpoint("127.0.0.1:0", lambda: LEADER) as first:
        began = time.monotonic()
        with HealthEndpoint(f"127.0.0.1:{first.port}", lambda: LEADER, shared=True):
            pass
    assert time.monotonic() - began < 3


def test_the_status_shows_where_each_replica_is_served():
    lines = list(status.table(listing(replace(LEADER, health_address="127.0.0.1:9101"), STANDBY)))
    column = lines[0].index("HEALTH")
    assert [line[column:].split()[0] for line in lines] == ["HEALTH", "127.0.0.1:9101", "-"]


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="the kernel has no IPv6")
def test_an_ipv6_address_is_written_in_brackets():
    with HealthEndpoint("[::1]:0", lambda: LEADER) as served, socket.create_connection(("::1", served.port)):
        pass


# The metrics


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_of_the_table_is_exposed_with_its_value():
    with endpoint(lambda: LEADER) as ask:
        status, text = ask("/metrics")
    assert status == 200
    found = samples(text)
    values = {f"streamspace_agent_{name}": value for name, value in {
        "epoch": 17, "leader_silence_seconds": 0, "leader_frozen": 0, "leader_seconds_total": 60.5,
        "election_store_up": 1,
        "lease_renewed_age_seconds": 0.2, "link_up": 1, "link_reconnects_total": 2, "heartbeat_age_seconds": 3.5,
        "engine_up": 1, "commands_running": 1, "commands_open": 2, "outbox_messages": 4, "loop_tick_age_seconds": 0,
        "alive": 1, "ready": 1,
    }.items()}  # fmt: skip
    assert {name: found[name, ()] for name in values} == values
    assert found["streamspace_agent_leader_gained_total", (("reason", "released"),)] == 2
    assert found["streamspace_agent_leader_lost_total", (("reason", "lease lost"),)] == 1
    assert found["streamspace_agent_sessions", (("state", "running"),)] == 3
    assert found["streamspace_agent_sessions", (("state", "failed"),)] == 0
    assert found["streamspace_agent_gateway_listening", (("address", "10.0.0.5:3000"),)] == 1
    assert found["streamspace_agent_gateway_requests_total", (("outcome", "passed"),)] == 7
    done = "streamspace_agent_commands_total"
    assert found[done, (("action", "start_session"), ("outcome", "failed"))] == 1
    roles = {dict(labels)["role"]: value for (name, labels), value in found.items() if name == "streamspace_agent_role"}
    assert roles == {"starting": 0, "standby": 0, "leader": 1, "draining": 0}
    names = {name for name, _ in found}
    assert {metrics.full_name(row) for row in metrics.TABLE} == {n for n in names if n.startswith("streamspace_agent_")}
    assert "process_resident_memory_bytes" in names


def test_a_number_that_is_not_known_is_left_out_rather_than_zero():
    text = (
        metrics.Metrics(lambda: replace(LEADER, election=ElectionStatus(), link=LinkStatus(), heartbeat_age=None))
        .render()
        .decode()
    )
    names = {name for name, _ in samples(text)}
    assert not {"streamspace_agent_epoch", "streamspace_agent_heartbeat_age_seconds"} & names
    assert "streamspace_agent_link_up" in names


def test_metrics_are_read_at_the_moment_of_the_scrape():
    now = [LEADER]
    with endpoint(lambda: now[0]) as ask:
        ask("/metrics")
        now[0] = replace(LEADER, election=replace(LEADER.election, epoch=18))
        assert samples(ask("/metrics")[1])["streamspace_agent_epoch", ()] == 18


# systemd


def test_systemd_is_told_what_happens(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "10000000"})
        notifier.ready()
        notifier.status("leader\nepoch 17")
        notifier.watchdog()
        notifier.stopping()
        assert [manager.recv(100) for _ in range(4)] == [
            b"READY=1",
            b"STATUS=leader epoch 17",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]
    assert notifier.watchdog_every == 5.0
    notifier.watchdog()


def test_an_abstract_notify_socket_is_found():
    name = f"streamspace-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "10"}, {"NOTIFY_SOCKET": "/none", "WATCHDOG_USEC": "x"}])
def test_without_systemd_nothing_happens(environ):
    notifier = Notifier(environ)
    notifier.ready()
    assert notifier.watchdog_every is None


def test_a_status_socket_that_could_not_take_a_connection_takes_the_next(tmp_path, monkeypatch, caplog):
    """As where the process has too many files open."""
    caplog.set_level("INFO")
    monkeypatch.setattr(replicas, "PAUSE", 0.01)
    last = os.open("/dev/null", os.O_RDONLY)  # all that is opened from here on has a higher number, or fills a gap
    taken = [last]
    with StatusSocket(tmp_path, "vm-1", lambda: LEADER) as served:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.ExitStack() as held:
            clients = [held.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(20)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, hard))
            try:
                for client in clients:  # the wait for the first has its descriptor already, and garbage gives some back
                    with contextlib.suppress(OSError):
                        while True:
                            taken.append(os.open("/dev/null", os.O_RDONLY))
                    client.connect(str(served.path))
                    deadline = time.monotonic() + 0.5
                    while "cannot accept a connection" not in caplog.text and time.monotonic() < deadline:
                        time.sleep(0.01)
                    if "cannot accept a connection" in caplog.text:
                        break
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for descriptor in taken:
                    os.close(descriptor)
        assert "Too many open files" in caplog.text
        [replica] = replicas.replicas(tmp_path)
        assert replica.document is not None


def test_an_endpoint_that_cannot_take_a_connection_tries_again_without_haste(monkeypatch):
    """As where the process has too many files open: whoever waits to be taken still waits."""
    tries, accept = [], socket.socket.accept

    def refused(listener):
        tries.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    with HealthEndpoint("127.0.0.1:0", lambda: LEADER) as served:
        monkeypatch.setattr(socket.socket, "accept", refused)
        with socket.create_connection(("127.0.0.1", served.port)):
            time.sleep(1.2)
        assert 1 <= len(tries) <= 5
        monkeypatch.setattr(socket.socket, "accept", accept)
        assert get(served.port, "/healthz")[0] == 200


def test_the_first_signal_of_a_shutdown_that_the_control_plane_asked_for_is_not_the_second(tmp_path, monkeypatch):
    exits = []
    monkeypatch.setattr("streamspace_agent.agent.os._exit", exits.append)
    values = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:1", "STATE_DIR": str(tmp_path)}
    agent = Agent(config.load(values), values)
    agent.stop("the control plane asked for it")
    agent.on_signal(signal.SIGTERM)
    assert exits == []
    agent.on_signal(signal.SIGTERM)
    assert exits == [130]
