"""Start latency: the agent against the raw Engine API, the same container, until its VNC server has greeted.

Raw is what the engine makes us pay: create, start, and the first greeting seen (polled every 5 ms), over one kept
connection a thread. The agent's figure runs from the control plane's `command` message to its `complete`, both by the
control plane's clock: journal, acknowledgement, checks, readiness and the status included. Rounds alternate, so that
the
machine's moods hit both alike.
"""

import asyncio
import datetime as dt
import http.client
import json
import os
import socket
import statistics
import threading
import time
import uuid

import docker

from tests.bench.harness import MANIFEST, finish, milliseconds, say, stage, sweep

ONE_ROUNDS = int(os.environ.get("ROUNDS", "15"))
SIXTEEN_ROUNDS = max(2, ONE_ROUNDS // 3)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("engine", timeout=60)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def call(connection, method, path, body=None):
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {data[:200]}")
    return json.loads(data) if data else None


def raw_start(host, config, name):
    """Seconds from nothing to a greeting."""
    connection = UnixConnection(host.removeprefix("unix://"))
    connection.connect()
    began = time.perf_counter()
    made = call(connection, "POST", f"/containers/create?name={name}", config)["Id"]
    call(connection, "POST", f"/containers/{made}/start")
    networks = call(connection, "GET", f"/containers/{made}/json")["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    while not greeted(address):
        time.sleep(0.005)
    took = time.perf_counter() - began
    connection.close()
    return took


def greeted(address):
    try:
        with socket.create_connection((address, 5900), timeout=1) as stream:
            return stream.recv(12).startswith(b"RFB")
    except OSError:
        return False


def raw_round(host, agent_id, config, count):
    took = []
    config = config | {"Labels": config["Labels"] | {"streamspace.agent": f"{agent_id}-raw"}}
    threads = [
        threading.Thread(target=lambda: took.append(raw_start(host, config, f"bench-{uuid.uuid4().hex[:10]}")))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sweep(host, f"{agent_id}-raw")
    return took


async def agent_round(scene, count):
    plane = scene.plane
    before = (await plane.events())[-1]["seq"]
    names = [f"b{uuid.uuid4().hex[:10]}" for _ in range(count)]
    commands = await asyncio.gather(
        *(plane.start_session("bench", session_id=name, manifest=MANIFEST) for name in names)
    )
    for command in commands:
        await plane.wait_command(command, timeout=120)
    events = await plane.events(before)
    sent = {e["payload"]["commandId"]: e["time"] for e in events if e["type"] == "command"}
    done = {e["payload"]["commandId"]: e["time"] for e in events if e["type"] == "complete"}
    for command in await asyncio.gather(*(plane.stop_session(name, deletePVC=True) for name in names)):
        await plane.wait_command(command, timeout=120)
    return [seconds(done[c]) - seconds(sent[c]) for c in commands]


def seconds(value):
    if isinstance(value, int | float):
        return float(value)
    return dt.datetime.fromisoformat(value).timestamp()


def same_container(host, name):
    """The create body of a container that the agent made, so that raw makes the very same one."""
    client = docker.APIClient(base_url=host)
    try:
        shown = client.inspect_container(name)
    finally:
        client.close()
    config = shown["Config"]
    kept = {key: config[key] for key in ("Image", "Env", "Labels", "ExposedPorts", "Hostname") if config.get(key)}
    kept.pop("Hostname", None)
    return kept | {"HostConfig": shown["HostConfig"]}


async def main():
    async with stage() as scene:
        await (await scene.agent()).start()
        await scene.plane.wait_agent(scene.agent_id)
        command = await scene.plane.start_session("bench", session_id="model", manifest=MANIFEST)
        await scene.plane.wait_command(command, timeout=120)
        config = same_container(scene.host, "streamspace-model")
        await scene.plane.wait_command(await scene.plane.stop_session("model"), timeout=60)
        took = {("raw", 1): [], ("raw", 16): [], ("agent", 1): [], ("agent", 16): []}
        for count, rounds in ((1, ONE_ROUNDS), (16, SIXTEEN_ROUNDS)):
            for number in range(rounds):
                took["raw", count] += await asyncio.to_thread(raw_round, scene.host, scene.agent_id, config, count)
                took["agent", count] += await agent_round(scene, count)
                say(
                    f"{count} at once, round {number + 1}/{rounds}: "
                    f"raw {statistics.median(took['raw', count]) * 1000:.0f} ms, "
                    f"agent {statistics.median(took['agent', count]) * 1000:.0f} ms"
                )
    ratio = {
        count: round(statistics.median(took["agent", count]) / statistics.median(took["raw", count]), 3)
        for count in (1, 16)
    }
    finish(
        bench="sessions",
        raw={"one": milliseconds(took["raw", 1]), "sixteen": milliseconds(took["raw", 16])},
        agent={"one": milliseconds(took["agent", 1]), "sixteen": milliseconds(took["agent", 16])},
        ratio_one=ratio[1],
        ratio_sixteen=ratio[16],
    )


if __name__ == "__main__":
    asyncio.run(main())
