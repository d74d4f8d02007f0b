"""The tunnel: throughput both ways, round trip of a byte idle and busy, memory, each beside what it could at best be.

The whole path is container, agent, control plane, viewer, each in a process of its own; websockify is put before the
same container's port and its viewer is the same code. The bare loop sends through the `websockets` library what the
measured one sends: one and the same ready-made message of the agent's size to the sink that the agent sends to, a
viewer's blocks and
single bytes to an end that does nothing else. Rounds alternate and the best of each counts: what is compared is code,
not
what else the machine does.
"""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import docker
from websockets.asyncio.client import connect

from streamspace_agent.protocol import vnc_data
from streamspace_agent.tunnel.flow_control import MAX_CHUNK
from streamspace_devplane.process import DevPlaneProcess
from streamspace_devplane.settings import Settings
from tests.bench import harness
from tests.bench.harness import MANIFEST, Stage, finish, say
from tests.bench.sink import HELLO, REQUEST

MEGABYTES = int(os.environ.get("MEGABYTES", "256"))
SIZE = MEGABYTES << 20
ROUNDS = int(os.environ.get("ROUNDS", "3"))
TRIPS = int(os.environ.get("TRIPS", "1000"))
TUNNELS = int(os.environ.get("TUNNELS", "100"))
BLOCK = bytes(64 * 1024)
PATIENCE = 900.0
"""Seconds for all of it: something that hangs is told."""


def manifest(**env):
    spec = MANIFEST["spec"] | {"env": [{"name": name, "value": str(value)} for name, value in env.items()]}
    spec["defaultResources"] = {"limits": {"memory": "64Mi", "cpu": "2"}}
    return MANIFEST | {"spec": spec}


async def read(viewer, size, *, asking=False):
    """Read so many bytes; a viewer that asks for more now and then, as those of RFB do, is one that is known to
    read."""
    got = asked = 0
    while got < size:
        got += len(await viewer.recv())
        while asking and got - asked > 1 << 20:
            asked += 1 << 20
            await viewer.send(REQUEST)
    return got


async def greeted(viewer):
    while not await viewer.recv():
        pass
    await viewer.send(HELLO)
    return viewer


async def down(viewer):
    """MB/s from a container that blasts."""
    await greeted(viewer)
    began = time.perf_counter()
    await read(viewer, SIZE, asking=True)
    return SIZE / 1e6 / (time.perf_counter() - began)


async def up(viewer):
    """MB/s into a container that says so when it has read it all."""
    await greeted(viewer)
    return await pour(viewer, SIZE - len(HELLO))


async def pour(viewer, left):
    began = time.perf_counter()
    await viewer.send(b"\x06\0\0\0" + (left - 8).to_bytes(4))  # one long clipboard text
    left -= 8
    while left:
        left -= len(block := BLOCK[:left])
        await viewer.send(block)
    await read(viewer, 4)
    return SIZE / 1e6 / (time.perf_counter() - began)


async def echoed(viewer):
    """A viewer whose greeting is behind it: what it says now comes back."""
    await greeted(viewer)
    await read(viewer, len(HELLO))
    return viewer


async def trips(viewer, count):
    """Seconds for each round trip of a byte."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await viewer.send(b"x")
        await viewer.recv()
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.002)
    return took


def centile(took, percent):
    ordered = sorted(took)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000, 2)


def view(url):
    return connect(url, subprotocols=["binary"], compression=None, max_size=None, close_timeout=1)


@contextlib.asynccontextmanager
async def websockify(address):
    """Its URL, before the port of one session."""
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "websockify", f"127.0.0.1:{port}", f"{address}:5900",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            try:
                async with view(url) as viewer:
                    await viewer.recv()
                    break
            except OSError:
                await asyncio.sleep(0.05)
        yield url
    finally:
        # It forks a process for each connection, and these end with their connections.
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def bare_end():
    """Its URL: it echoes, below /sink it swallows."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.bare", str(port), str(SIZE))
    try:
        await listening(port)
        yield f"ws://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


async def open_viewer(plane, session_id):
    """A viewer, once the last one's leaving has reached the agent."""
    await asyncio.sleep(0.3)
    viewer = await plane.open_viewer(session_id)
    viewer.close_timeout = 1
    return viewer


async def start(scene, session_id, **env):
    await scene.plane.wait_command(
        await scene.plane.start_session("bench", session_id=session_id, manifest=manifest(**env), memory="64Mi"),
        timeout=60,
    )
    client = docker.APIClient(base_url=scene.host)
    try:
        networks = client.inspect_container(f"streamspace-{session_id}")["NetworkSettings"]["Networks"]
    finally:
        client.close()
    return next(iter(networks.values()))["IPAddress"]


async def throughput(scene, session_id, measure, **env):
    """Best MB/s of the tunnel and of websockify."""
    address = await start(scene, session_id, **env)
    tunnel, direct_rates = [], []
    async with websockify(address) as direct:
        for _ in range(ROUNDS):
            async with await open_viewer(scene.plane, session_id) as viewer:
                tunnel.append(await measure(viewer))
            async with view(direct) as viewer:
                direct_rates.append(await measure(viewer))
    say(f"{session_id}: tunnel {_show(tunnel)} MB/s, websockify {_show(direct_rates)} MB/s")
    return max(tunnel), max(direct_rates)


async def bare_up():
    """Best MB/s of a viewer's blocks through nothing but `websockets`."""
    rates = []
    async with bare_end() as url:
        for _ in range(ROUNDS):
            async with view(f"{url}/sink") as viewer:
                rates.append(await pour(viewer, SIZE))
    say(f"viewer to session: bare loop {_show(rates)} MB/s")
    return max(rates)


def _show(rates):
    return " ".join(f"{rate:.0f}" for rate in rates)


async def round_trips(scene, prefix):
    session_id, busy_id = f"{prefix}-echo", f"{prefix}-busy"
    address = await start(scene, session_id, MODE="vnc")
    async with await open_viewer(scene.plane, session_id) as viewer:
        idle = await trips(await echoed(viewer), TRIPS)
    async with websockify(address) as direct, view(direct) as viewer:
        idle_direct = await trips(await echoed(viewer), TRIPS)
    async with bare_end() as url, view(url) as viewer:
        idle_bare = await trips(viewer, TRIPS)
    busy_address = await start(scene, busy_id, MODE="blast", MEGABYTES=1 << 20)
    async with (
        await open_viewer(scene.plane, session_id) as viewer,
        saturated(f"{scene.plane.ws_url}/api/v1/sessions/{busy_id}/vnc"),
    ):
        busy = await trips(await echoed(viewer), TRIPS)
    async with (
        websockify(busy_address) as busy_direct,
        websockify(address) as direct,
        view(direct) as viewer,
        saturated(busy_direct),
    ):
        busy_direct_trips = await trips(await echoed(viewer), TRIPS)
    await scene.plane.wait_command(await scene.plane.stop_session(busy_id))
    for name, took in {
        "idle, tunnel": idle,
        "idle, websockify": idle_direct,
        "idle, bare loop": idle_bare,
        "beside a saturated one, tunnel": busy,
        "beside a saturated one, websockify": busy_direct_trips,
    }.items():
        say(f"round trip {name}: p50 {centile(took, 50)} p99 {centile(took, 99)} ms")
    return idle, busy


@contextlib.asynccontextmanager
async def saturated(url):
    """While a viewer in a process of its own reads all it can get."""
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.tunnel", "watch", url, stdout=asyncio.subprocess.PIPE
    )
    try:
        await watching.stdout.readline()
        yield
        assert watching.returncode is None, "the saturating viewer ended"
    finally:
        with contextlib.suppress(ProcessLookupError):
            watching.kill()
        await watching.wait()


async def watch(url):
    async with view(url) as viewer:
        await greeted(viewer)
        await read(viewer, 8 << 20, asking=True)
        say("saturated")
        await read(viewer, 1 << 50, asking=True)


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def memory(scene, agent, prefix):
    """MB that so many idle tunnels add, containers and all that the agent knows of them included."""
    await start(scene, f"{prefix}-first", MODE="vnc")
    await asyncio.sleep(1)
    before = resident(agent.pid)
    names = [f"{prefix}-m{number}" for number in range(TUNNELS)]
    for some in (names[i : i + 16] for i in range(0, TUNNELS, 16)):
        await asyncio.gather(*(start(scene, name, MODE="vnc") for name in some))
    await asyncio.sleep(2)
    added = (resident(agent.pid) - before) / 1e6
    say(f"memory: {before / 1e6:.1f} MB with one tunnel, {added:.1f} MB more with {TUNNELS} more")
    return added


async def to_sink(scene, prefix):
    """Best MB/s of VNC bytes that the agent, and a bare loop, get into a sink."""
    agent_rates, bare_rates = [], []
    for number in range(ROUNDS):
        session_id = f"{prefix}-sink{number}"
        payload = {"sessionId": session_id, "user": "bench", "template": "bench"}
        payload["templateManifest"] = manifest(MODE="blast", MEGABYTES=1 << 20)
        port = free_port()
        command = json.dumps({"action": "start_session", "payload": payload})
        sink = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.sink", str(port), str(SIZE), command, stdout=asyncio.subprocess.PIPE
        )
        try:
            await listening(port)
            await bare(port)
            bare_rates.append(await rate(sink))
            agent = await scene.agent(
                f"sink{number}", CONTROL_PLANE_URL=f"ws://127.0.0.1:{port}", **own_state(scene, number)
            )
            await agent.start()
            agent_rates.append(await rate(sink))
            await agent.terminate()
        finally:
            sink.terminate()
            await sink.wait()
        await asyncio.to_thread(harness.sweep, scene.host, scene.agent_id)
    say(f"agent to control plane: {_show(agent_rates)} MB/s, bare loop {_show(bare_rates)} MB/s")
    return max(agent_rates), max(bare_rates)


def own_state(scene, number):
    return {
        "STATE_DIR": str(scene.folder / f"sink-state{number}"),
        "DRAIN_TIMEOUT": "1s",
        "VIEWER_RELAY": "repaired",  # as the others: the deployed kind is as slow as it has to be
    }


async def listening(port):
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


async def bare(port):
    frame = vnc_data("bench", os.urandom(MAX_CHUNK))
    async with connect(f"ws://127.0.0.1:{port}/api/v1/agents/connect", compression=None) as link:
        for _ in range((SIZE + (32 << 20)) // MAX_CHUNK):
            await link.send(frame, text=True)
        await (await link.ping())


async def rate(sink):
    async with asyncio.timeout(60):
        return float(await sink.stdout.readline())


async def main():
    with tempfile.TemporaryDirectory(prefix="streamspace-bench-") as folder:
        plane = DevPlaneProcess(Path(folder) / "plane", settings=Settings(log_vnc_data=False, relay="repaired"))
        async with asyncio.timeout(PATIENCE), plane:
            prefix = f"bench-{os.urandom(4).hex()}"
            scene = Stage(Path(folder), plane, prefix, os.environ["DOCKER_HOST"])
            try:
                agent = await (await scene.agent(MAX_SESSIONS="200", MAX_CPU="1000", VIEWER_RELAY="repaired")).start()
                await plane.wait_agent(prefix)
                to_viewer, down_direct = await throughput(
                    scene, f"{prefix}-down", down, MODE="blast", MEGABYTES=1 << 20
                )
                to_session, up_direct = await throughput(scene, f"{prefix}-up", up, MODE="sink", MEGABYTES=MEGABYTES)
                up_bare = await bare_up()
                idle, busy = await round_trips(scene, prefix)
                added = await memory(scene, agent, prefix)
                await agent.terminate()
                await asyncio.to_thread(harness.sweep, scene.host, prefix)
                sent, loop = await to_sink(scene, prefix)
            finally:
                for agent in scene.agents:
                    await agent.kill()
                await asyncio.to_thread(harness.sweep, scene.host, prefix)
    say(f"to the session: {to_session / up_direct:.2f} of websockify, {to_session / up_bare:.2f} of the bare loop")
    finish(
        bench="tunnel",
        to_viewer_mb_s=round(to_viewer),
        to_session_mb_s=round(to_session),
        ratio_bare=round(sent / loop, 2),
        ratio_websockify=round(to_viewer / down_direct, 2),
        rtt_idle_p50_ms=round(statistics.median(idle) * 1000, 2),
        rtt_idle_p99_ms=centile(idle, 99),
        rtt_busy_p99_ms=centile(busy, 99),
        memory_100_tunnels_mb=round(added, 1),
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["watch", url]:
            asyncio.run(watch(url))
        case _:
            asyncio.run(main())
