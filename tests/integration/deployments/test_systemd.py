"""The systemd units on a host with a real systemd, installed and used by the documented commands."""

import json
import re

import pytest

from tests.integration.deployments import readme, scenario

pytestmark = pytest.mark.timeout(400)  # the first of a run builds the image

AGENT, REPLICA = "docker-agent", "docker-agent@{}"


@pytest.fixture
def install(host, exported, key):
    def install(**more):
        steps = readme.block("sudo cp docker-agent /usr/local/bin")
        before, editing, _ = steps.partition("sudo vi /etc/streamspace/docker-agent.env\n")
        assert editing
        host.run(f"set -e; cd /root\n{before}")
        example = host.run("cat /etc/streamspace/docker-agent.env")
        names = ("AGENT_ID", "CONTROL_PLANE_URL", "NETWORK_NAME")
        lines = [f"{name}={value}" for name, value in {**{n: exported[n] for n in names}, **more}.items() if value]
        kept = [line for line in example.splitlines() if line.partition("=")[0] not in {*exported, *more}]
        host.put("/etc/streamspace/docker-agent.env", "\n".join([*kept, *lines, ""]).encode(), 0o600)
        host.put("/etc/credstore/agent-key", key.encode(), 0o600)
        host.run("systemctl daemon-reload")

    return install


def test_the_units_are_valid_and_well_hardened(host, install):
    install()
    for unit in (AGENT, REPLICA.format(1)):
        assert host.run(f"systemd-analyze verify {unit}.service") == ""
        host.run(f"systemctl start {unit} || true")
        verdict = host.run(f"systemd-analyze security --no-pager {unit} | tail -1")
        assert float(re.search(r": (\d+\.\d) ", verdict)[1]) <= 1.5


async def test_a_killed_service_comes_back_to_its_session_and_stops_cleanly(
    host, install, plane, agent_id, manifest, docker_client
):
    install()
    _, _, after = readme.block("sudo cp docker-agent /usr/local/bin").partition("docker-agent.env\n\n# 5")
    async with scenario.led(plane, agent_id):
        host.run(f"set -e; # 5{after}")
    await scenario.start(plane, manifest, agent_id)
    began = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

    took = await scenario.until_taken_over(plane, agent_id, lambda: host.run(f"systemctl kill -s KILL {AGENT}"))
    print(f"back after {took:.2f} s")
    assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
    await scenario.still_controllable(plane, agent_id)

    assert agent_id in host.ask(f"timeout 3 {readme.command('journalctl -u docker-agent -f')}")[1]
    use = readme.block("sudo systemctl status").replace("docker-agent-prod", agent_id)
    assert "leader" in host.run(f"set -e; {use}")  # status, journal, restart, and last of all stop
    assert (host.show(AGENT, "Result"), host.show(AGENT, "ExecMainStatus")) == ("success", "0")


async def test_a_hanging_service_is_killed_by_the_watchdog_and_comes_back(host, install, plane, agent_id):
    install()
    host.put(f"/etc/systemd/system/{AGENT}.service.d/quick.conf", b"[Service]\nWatchdogSec=2\n")
    host.run(f"systemctl daemon-reload && systemctl start {AGENT}")
    await plane.wait_agent(agent_id)
    took = await scenario.until_taken_over(plane, agent_id, lambda: host.run(f"systemctl kill -s STOP {AGENT}"))
    print(f"back after {took:.2f} s")
    assert "watchdog" in host.journal(AGENT).lower()


async def test_of_two_services_one_leads_and_the_other_takes_over_when_it_is_killed(
    host, install, plane, agent_id, manifest, docker_client
):
    install(ENABLE_HA="true", LEADER_ELECTION_BACKEND="file", LOCK_FILE_PATH=f"/var/run/streamspace/{agent_id}.lock")
    units = [REPLICA.format(1), REPLICA.format(2)]
    async with scenario.led(plane, agent_id):
        host.run(readme.command("docker-agent@1"))
    await scenario.start(plane, manifest, agent_id)
    began = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

    replicas = json.loads(host.run(f"docker-agent status --json --agent-id {agent_id}"))
    assert sorted(replica["role"] for replica in replicas) == ["leader", "standby"]
    (leader,) = (replica for replica in replicas if replica["role"] == "leader")
    assert host.run("cat /var/run/streamspace/*.lock").splitlines()[0] == leader["instance"]
    (unit,) = (unit for unit in units if host.show(unit, "MainPID") == str(leader["pid"]))

    took = await scenario.until_taken_over(plane, agent_id, lambda: host.run(f"systemctl kill -s KILL {unit}"))
    print(f"taken over after {took:.2f} s")
    assert host.run("cat /var/run/streamspace/*.lock").splitlines()[0] != leader["instance"]
    assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began

    host.run(f"systemctl stop {unit}")  # the lock's folder stays, for the other holds what is in it
    await scenario.still_controllable(plane, agent_id)


def test_a_missing_setting_is_one_line_and_no_restart(host, install):
    install(AGENT_ID="")
    assert host.ask(f"systemctl start {AGENT}")[0] != 0
    (line,) = (line for line in host.journal(AGENT).splitlines() if line.startswith("docker-agent: "))
    assert line.startswith("docker-agent: AGENT_ID is not set")
    assert (host.show(AGENT, "ExecMainStatus"), host.show(AGENT, "NRestarts")) == ("2", "0")


def test_every_command_of_the_readme_for_systemd_was_run():
    assert readme.left_out(__name__) == []
