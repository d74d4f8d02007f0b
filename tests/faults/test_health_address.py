"""Replicas on one host that share HEALTH_ADDRESS, and Prometheus as the README sets it up."""

import asyncio
import json
import re
import shutil
import signal
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from lab import apt, process
from lab.until import until

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.loads(answer.read())


@pytest.fixture
async def make_replica(make_agent):
    # A file system that carries locks: the temporary folder may be a container's own layer, which is refused.
    folder = Path(tempfile.mkdtemp(prefix="streamspace-lock-", dir="/dev/shm"))

    async def make(name, address):
        lock = str(folder / "agent.lock")
        return await (await make_agent(name, ENABLE_HA="true", LOCK_FILE_PATH=lock, HEALTH_ADDRESS=address)).start()

    yield make
    shutil.rmtree(folder)


async def told(replica):
    """Each replica's role by the address that the status shows."""
    return {document["health_address"]: document["role"] for document in (await replica.ask("status"))[1]}


@pytest.fixture
def ports():
    """The first of three free ports in a row."""
    return process.free_ports(3)


async def test_a_port_that_another_replica_has_is_taken_over_with_its_end(make_replica, ports, plane, agent_id):
    address = f"127.0.0.1:{ports}"
    leader = await make_replica("one", address)
    await plane.wait_agent(agent_id)
    standby = await make_replica("two", address)
    await until(lambda: "standing by" in standby.log)
    assert f"HEALTH_ADDRESS={address}: cannot listen there: address already in use" in standby.log
    assert await told(standby) == {address: "leader", "": "standby"}
    leader.signal(signal.SIGKILL)
    await leader.wait()

    async def served():
        return await told(standby) == {address: "leader"}

    await until(served)
    assert (await asyncio.to_thread(get, f"http://{address}/status"))["pid"] == standby.pid
    assert await standby.terminate() == 0


async def test_prometheus_sees_every_replica_of_a_range_and_misses_no_port_that_none_uses(
    make_replica, ports, plane, agent_id, tmp_path
):
    apt.require("prometheus")
    one = await make_replica("one", f"127.0.0.1:{ports}-{ports + 2}")
    await plane.wait_agent(agent_id)
    two = await make_replica("two", f"127.0.0.1:{ports}-{ports + 2}")
    await until(lambda: "standing by" in two.log)
    assert await told(one) == {f"127.0.0.1:{ports}": "leader", f"127.0.0.1:{ports + 1}": "standby"}
    assert f"health and metrics are served at http://127.0.0.1:{ports + 1}" in two.log

    (config,) = re.findall(
        r"^```yaml\n(rule_files.*?)^```", (DEPLOYMENTS / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    config = config.replace("/etc/prometheus/", f"{DEPLOYMENTS}/monitoring/").replace("15s", "1s")
    config = re.sub(r"(?m)^ +- 10\.0\.0\.6:.*\n", "", config)
    config = re.sub(r"10\.0\.0\.5:910(\d)", lambda found: f"127.0.0.1:{ports + int(found[1])}", config)
    (tmp_path / "prometheus.yaml").write_text(f"global: {{evaluation_interval: 1s}}\n{config}")
    web = f"127.0.0.1:{process.free_port()}"
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yaml", f"--web.listen-address={web}"]
    pid = process.spawn([*command, f"--storage.tsdb.path={tmp_path}/data"], tmp_path / "prometheus.log")
    try:

        def ask(expression):
            try:
                answer = get(f"http://{web}/api/v1/query?query={urllib.parse.quote(expression)}")
            except (urllib.error.URLError, OSError):
                return {}
            return {sample["metric"].get("instance", ""): sample["value"][1] for sample in answer["data"]["result"]}

        def seen():
            info = ask('streamspace_agent_role{role="leader"}')
            return info == {f"127.0.0.1:{ports}": "1", f"127.0.0.1:{ports + 1}": "0"}

        await until(lambda: asyncio.to_thread(seen))
        failed = 'sum by (instance) (streamspace_agent_commands_total{action="start_session",outcome="failed"})'
        assert await asyncio.to_thread(ask, failed) == {f"127.0.0.1:{ports + n}": "0" for n in range(2)}
        await until(lambda: asyncio.to_thread(lambda: ask("up").get(f"127.0.0.1:{ports + 2}") == "0"))
        await asyncio.sleep(3)  # each rule is evaluated every second
        assert await asyncio.to_thread(ask, 'ALERTS{alertname=~".*Unreachable|.*Gone|.*WithoutLeader"}') == {}
        await two.kill()
        missed = {f"127.0.0.1:{ports + 1}": "1"}
        await until(lambda: asyncio.to_thread(lambda: ask('ALERTS{alertname="StreamspaceAgentUnreachable"}') == missed))
    finally:
        process.stop(pid, str(tmp_path))
