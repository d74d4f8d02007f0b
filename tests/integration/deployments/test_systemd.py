"""The systemd units on a host with a real systemd, installed and used by the documented commands."""

import json
import re
import ssl

import pytest
import trustme

from lab.redis import RedisServer
from lab.until import until
from streamspace_devplane import DevPlane
from tests.integration.deployments import readme, scenario
from tests.integration.deployments.systemd_host import DEPLOYMENTS_THERE

pytestmark = pytest.mark.timeout(400)  # the first of a run builds the image

AGENT, REPLICA = "docker-agent", "docker-agent@{}"
ENV_FILE = "/etc/streamspace/docker-agent.env"
FILE_LOCK = 0.25  # seconds from the leader's death to the next one (election documentation, section 4)
REDIS_LEASE = 5.6


def installation():
    """The README's steps up to its editor, and those behind it."""
    _, before, behind = re.split(
        r"(?s)\A(.*)sudo vi \S+\n(?=\n# 5)", readme.block("sudo cp docker-agent /usr/local/bin")
    )
    return before, behind


def replicas():
    """The README's way to high availability, from behind its editor."""
    return readme.block("disable --now docker-agent").split(f"sudo vi {ENV_FILE}\n")[1]


@pytest.fixture
def configure(host, exported):
    """Write the settings as an operator's editor does: `configure(AGENT_ID=..., on=HOST)`."""

    def configure(on=host, **more):
        example = on.run(f"cat {DEPLOYMENTS_THERE}/systemd/docker-agent.env.example")
        names = ("AGENT_ID", "CONTROL_PLANE_URL", "NETWORK_NAME")
        lines = [f"{name}={value}" for name, value in {**{n: exported[n] for n in names}, **more}.items() if value]
        kept = [line for line in example.splitlines() if line.partition("=")[0] not in {*exported, *more}]
        on.put(ENV_FILE, "\n".join([*kept, *lines, ""]).encode(), 0o600)

    return configure


@pytest.fixture
def install(host, key, configure):
    """The installation of the README up to the first start, with the key where it says."""

    def install(on=host, **more):
        on.run(f"set -e; cd {DEPLOYMENTS_THERE}\n{installation()[0]}")
        configure(on, **more)
        on.put("/etc/credstore/agent-key", key.encode(), 0o600)
        on.run("systemctl daemon-reload")

    return install


@pytest.fixture
def on_file(agent_id):
    lock = f"/var/run/streamspace/docker-agent-{agent_id}.lock"
    return {"ENABLE_HA": "true", "LEADER_ELECTION_BACKEND": "file", "LOCK_FILE_PATH": lock}


ON_REDIS = {"ENABLE_HA": "true", "LEADER_ELECTION_BACKEND": "redis"}


async def killed(host, plane, agent_id, unit, *, and_stopped=False):
    """Seconds from `systemctl kill -s KILL` until the control plane has accepted another connection; one clock tells
    both."""
    after = (await plane.events())[-1]["seq"]
    said = []
    command = f"date +%s.%N; systemctl kill -s KILL {unit}" + (f"; systemctl stop {unit}" if and_stopped else "")
    await scenario.until_taken_over(plane, agent_id, lambda: said.append(host.run(command)))
    return (await scenario.connections(plane, agent_id, after))[0]["time"] - float(said[0].split()[0])


def status(host, agent_id):
    return json.loads(host.ask(f"docker-agent status --json --agent-id {agent_id}")[1] or "[]")


async def roles(host, agent_id, wanted):
    """The replicas' documents by role, once they are the wanted ones."""

    def had():
        found = status(host, agent_id)
        return found if sorted(document.get("role", "?") for document in found) == wanted else None

    return {document["role"]: document for document in await until(had, f"{wanted}", every=0.2)}


def unit_of(host, document):
    """The unit of a replica."""
    (unit,) = (u for u in map(REPLICA.format, (1, 2)) if host.show(u, "MainPID") == str(document["pid"]))
    return unit


def test_the_units_are_valid_and_as_hardened_as_the_readme_says(host, install):
    install()
    documented = float(re.search(r"`systemd-analyze security` rates the unit (\d\.\d)", readme.TEXT)[1])
    for unit in (AGENT, REPLICA.format(1)):
        assert host.run(f"systemd-analyze verify {unit}.service") == ""
        host.run(f"systemctl start {unit} || true")
        verdict = host.run(f"systemd-analyze security --no-pager {unit} | tail -1")
        print(f"{unit}: {verdict.strip()}")
        assert float(re.search(r": (\d+\.\d) ", verdict)[1]) == documented


async def test_a_killed_service_comes_back_to_its_session_and_stops_cleanly(
    host, install, plane, agent_id, manifest, docker_client
):
    install()
    async with scenario.led(plane, agent_id):
        await host.do(f"set -e\n{installation()[1]}")
    await scenario.start(plane, manifest, agent_id)
    began = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

    print(f"back after {await killed(host, plane, agent_id, AGENT):.2f} s")
    assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
    await scenario.still_controllable(plane, agent_id)

    assert agent_id in host.ask(f"timeout 3 {readme.command('journalctl -u docker-agent -f')}")[1]
    for check in readme.lines(readme.block("sudo sh -c")):
        assert agent_id in (found := await host.do(check))
        assert "FATAL" not in found
    use = readme.block("sudo systemctl status").replace("docker-agent-prod", agent_id)
    assert "leader" in await host.do(f"set -e; {use}")  # status, journal, restart, and last of all stop
    assert (host.show(AGENT, "Result"), host.show(AGENT, "ExecMainStatus")) == ("success", "0")


async def test_a_hanging_service_is_killed_by_the_watchdog_and_comes_back(host, install, plane, agent_id):
    install()
    host.put(f"/etc/systemd/system/{AGENT}.service.d/quick.conf", b"[Service]\nWatchdogSec=2\n")
    await host.do(f"systemctl daemon-reload && systemctl start {AGENT}")
    await plane.wait_agent(agent_id)
    took = await scenario.until_taken_over(plane, agent_id, lambda: host.run(f"systemctl kill -s STOP {AGENT}"))
    print(f"back after {took:.2f} s")
    assert "watchdog" in host.journal(AGENT).lower()


async def test_of_two_services_one_leads_and_the_other_takes_over_when_it_is_killed(
    host, install, configure, on_file, plane, agent_id, manifest, docker_client
):
    install()
    await host.do(f"set -e\n{installation()[1]}")  # as the README's reader has it when he comes to high availability
    await plane.wait_agent(agent_id, timeout=60)
    configure(**on_file, HEALTH_ADDRESS="127.0.0.1:39100-39109")
    after = (await plane.events())[-1]["seq"]
    began = float((await host.do(f"date +%s.%N; set -e\n{replicas()}")).split()[0])
    document = (await roles(host, agent_id, ["leader", "standby"]))["leader"]
    await plane.wait_agent(agent_id, timeout=60)
    print(f"a leader after {(await scenario.connections(plane, agent_id, after))[0]['time'] - began:.2f} s")
    assert host.show(AGENT, "ActiveState") == "inactive"

    await scenario.start(plane, manifest, agent_id)
    started = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]
    took = []
    while len(took) < 3 and min(took, default=1.0) > FILE_LOCK:
        assert host.run("cat /var/run/streamspace/*.lock").splitlines()[0] == document["instance"]
        took.append(await killed(host, plane, agent_id, unit_of(host, document)))
        former, document = document, (await roles(host, agent_id, ["leader", "standby"]))["leader"]
        assert document["instance"] != former["instance"]
    print(f"taken over after {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    assert min(took) <= FILE_LOCK
    assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == started
    addresses = {replica["health_address"] for replica in status(host, agent_id)}
    assert addresses == {"127.0.0.1:39100", "127.0.0.1:39101"}

    stopping = f"systemctl stop {unit_of(host, document)}"  # the lock's folder stays, for the other holds what is in it
    await scenario.until_taken_over(plane, agent_id, lambda: host.run(stopping))
    await scenario.still_controllable(plane, agent_id)


async def test_who_leads_is_told_by_the_lock_to_root_and_to_the_group_of_the_socket_alone(
    host, install, on_file, plane, agent_id
):
    install(**on_file)
    await host.do(f"systemctl start {REPLICA.format(1)}")
    await plane.wait_agent(agent_id, timeout=60)
    (replica,) = status(host, agent_id)
    documented = readme.command("cat /var/run/streamspace/docker-agent-")
    for who, command in {"member": documented, "admin": f"sudo {documented}", "root": documented}.items():
        assert host.run(f'su {who} -s /bin/sh -c "{command}"').splitlines()[0] == replica["instance"]
    code, said = host.ask(f'su guest -s /bin/sh -c "{documented}"')
    assert (code, "Permission denied" in said) == (1, True)
    assert host.ask("su guest -s /bin/sh -c 'touch /run/streamspace/other.lock'")[0] != 0


async def test_services_on_two_hosts_take_over_through_a_redis_whose_password_is_in_no_setting(
    host, other_host, install, plane, agent_id, manifest, docker_client
):
    password = "correct-horse-battery"
    with RedisServer(password=password) as redis:
        handed = readme.block("/etc/credstore/redis-url").replace("URLFILE", "/srv/url")
        for each in (host, other_host):
            each.put("/srv/url", f"{redis.url}\n".encode(), 0o600)
        install(**ON_REDIS)
        async with scenario.led(plane, agent_id):
            await host.do(f"set -e\n{handed}")
        install(other_host, **ON_REDIS)
        await other_host.do(f"set -e\n{handed}")
        await roles(other_host, agent_id, ["standby"])
        await scenario.start(plane, manifest, agent_id)
        began = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

        assert host.run("stat -c '%U %a' /etc/credstore/redis-url") == "root 600\n"
        shown = "systemctl show docker-agent; systemctl cat docker-agent; systemctl status -l docker-agent; "
        shown += "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '"
        for each in (host, other_host):
            assert password not in each.run(shown) + each.journal(AGENT)
            assert "REDIS_URL_FILE=" in each.run(shown)

        took = await killed(host, plane, agent_id, AGENT, and_stopped=True)
        print(f"taken over by the other host after {took:.2f} s")
        await roles(other_host, agent_id, ["leader"])
        assert took <= REDIS_LEASE
        assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
        await scenario.still_controllable(plane, agent_id)
        await other_host.do(f"systemctl stop {AGENT}")


async def test_certificates_reach_the_agent_as_credentials(host, install, agent_id, tmp_path):
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    mine = authority.issue_cert("agent@example.org", common_name=agent_id)
    async with DevPlane(tmp_path / "tls-plane.db", tls=context) as plane:
        install(CONTROL_PLANE_URL=f"wss://localhost:{plane.port}")
        host.run("rm /etc/credstore/agent-key")
        host.put("/etc/credstore/tls-ca", authority.cert_pem.bytes(), 0o600)
        host.put("/etc/credstore/tls-cert", mine.cert_chain_pems[0].bytes(), 0o600)
        host.put("/etc/credstore/tls-key", mine.private_key_pem.bytes(), 0o600)
        await host.do(f"systemctl start {AGENT}")
        await plane.wait_agent(agent_id, timeout=60)
        assert (await plane.events(type="register"))[0]["payload"]["by"] == "certificate"
        await host.do(f"systemctl stop {AGENT}")


async def test_a_drop_in_of_the_readme_gives_commands_more_time_and_the_agent_another_file(
    host, install, plane, agent_id
):
    install()
    (drop_in,) = re.findall(r"^```ini\n(\[Service\]\n.*?)^```", readme.TEXT, re.MULTILINE | re.DOTALL)
    host.put("/etc/ssl/redis-ca.pem", b"a certificate", 0o600)
    host.put("/etc/streamspace/config.json", b"{}", 0o600)
    host.put(f"/etc/systemd/system/{AGENT}.service.d/override.conf", drop_in.encode())
    await host.do(f"systemctl daemon-reload && systemctl start {AGENT}")
    await plane.wait_agent(agent_id, timeout=60)
    assert host.show(AGENT, "TimeoutStopUSec") == "5min 35s"
    environ = host.run(f"tr '\\0' '\\n' </proc/{host.show(AGENT, 'MainPID')}/environ")
    path = re.search("^REDIS_TLS_CA_FILE=(.*)$", environ, re.MULTILINE)[1]
    assert host.run(f"cat {path}") == "a certificate"
    folder = re.search("^DOCKER_CONFIG=(.*)$", environ, re.MULTILINE)[1]
    assert host.run(f"cat {folder}/config.json") == "{}"


async def test_a_host_without_dockers_group_gets_it_with_the_installation(host, install):
    """As one has that uses another host's engine."""
    group = host.run("getent group docker").split(":")[2]
    host.run("groupdel docker")
    try:
        install(DOCKER_HOST="tcp://127.0.0.1:9")
        host.run(f"systemctl start --no-block {AGENT}")
        told = "DOCKER_HOST=tcp://127.0.0.1:9"
        await until(lambda: told in host.journal(AGENT), lambda: host.journal(AGENT), timeout=60, every=0.2)
        host.run(f"systemctl stop {AGENT}")
    finally:
        host.run(f"groupadd -f docker; groupmod --non-unique --gid {group} docker; usermod -aG docker member")


async def test_a_long_series_of_crashes_is_survived(host, install, plane, agent_id):
    install()
    crash = b"[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=20ms\n"
    host.put(f"/etc/systemd/system/{AGENT}.service.d/crash.conf", crash)
    host.run(f"systemctl daemon-reload; systemctl start {AGENT} || true")
    # It says nothing while the manager is busy.
    await until(lambda: int(host.show(AGENT, "NRestarts") or 0) >= 40, timeout=180, every=0.2)
    host.run(f"rm /etc/systemd/system/{AGENT}.service.d/crash.conf; systemctl daemon-reload")
    await plane.wait_agent(agent_id, timeout=60)


def test_a_missing_setting_is_one_line_and_no_restart(host, install):
    install(AGENT_ID="")
    assert host.ask(f"systemctl start {AGENT}")[0] != 0
    (line,) = (line for line in host.journal(AGENT).splitlines() if line.startswith("docker-agent: "))
    assert line.startswith("docker-agent: AGENT_ID is not set")
    assert (host.show(AGENT, "ExecMainStatus"), host.show(AGENT, "NRestarts")) == ("2", "0")


def test_every_command_of_the_readme_for_systemd_was_run():
    assert readme.left_out(__name__) == []
