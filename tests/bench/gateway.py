"""The web gateway against going to the session's container directly: the same server, the same client, in turns.

Throughput is a download by one client that does nothing else; the round trip is that of a small WebSocket message, one
at a time, on an idle gateway and while another session's download runs as fast as it can. Rounds alternate, so that
the machine's moods
hit both alike. On a machine of few cores server, gateway and client share them: what the gateway costs is then seen in
both figures.
"""

import asyncio
import os
import socket
import statistics
import threading
import time

import docker

from lab.images import NAMES
from lab.process import free_port
from tests.bench.harness import finish, say, stage

SIZE = int(os.environ.get("MEGABYTES", "400")) * 1_000_000
ROUNDS = int(os.environ.get("ROUNDS", "7"))
TRIPS = 2000
RELAY = os.environ.get("VIEWER_RELAY", "deployed")
"""The kind of control plane that the agent reckons with. With "deployed", answers come in chunks: a download then
counts their framing too, 1 byte in 4000 or fewer.
"""
DOMAIN = "streamspace.svc.cluster.local"
MESSAGE = b"\x82\x88\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00a"
"""A binary frame of a browser's, masked with zeros: a key of RFB."""


def manifest():
    spec = {
        "baseImage": NAMES["standin"],
        "defaultResources": {"limits": {"memory": "256Mi", "cpu": "4000m"}},
        "ports": [{"name": "http", "containerPort": 3000}],
        "env": [{"name": "SPEAKS", "value": "bulk:3000"}],
    }
    return {"metadata": {"name": "bulk"}, "spec": spec}


class Way:
    """One way to a session's server."""

    def __init__(self, address, session_id):
        self.address, self.session_id = address, session_id

    def ask(self, path, *more):
        connection = socket.create_connection(self.address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"GET {path} HTTP/1.1", f"Host: {self.session_id}.{DOMAIN}:3000", *more, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = connection.recv(65536)
            assert piece, head
            head += piece
        head, _, rest = head.partition(b"\r\n\r\n")
        return connection, head, rest

    def download(self, size=SIZE, *, until=None):
        """Bytes a second."""
        begun = time.perf_counter()
        connection, head, rest = self.ask(f"/{size}")
        assert b" 200 " in head.split(b"\r\n")[0], head
        buffer, left = bytearray(1 << 20), size - len(rest)
        with connection:
            while left > 0 and not (until and until.is_set()):
                taken = connection.recv_into(buffer)
                assert taken, "broken off"
                left -= taken
        return size / (time.perf_counter() - begun)

    def trips(self, count=TRIPS):
        """Seconds of each round trip."""
        connection, head, _ = self.ask("/echo", "Connection: Upgrade", "Upgrade: websocket")
        assert b" 101 " in head.split(b"\r\n")[0], head
        taken = []
        with connection:
            for _ in range(count):
                begun = time.perf_counter()
                connection.sendall(MESSAGE)
                left = len(MESSAGE)
                while left:
                    left -= len(connection.recv(left))
                taken.append(time.perf_counter() - begun)
        return taken


def p99(times):
    return sorted(times)[round(0.99 * (len(times) - 1))] * 1000


def measure(direct, through, other):
    rates, times = {"direct": [], "through": []}, {"direct": [], "through": []}
    for turn in range(ROUNDS):
        for name, way in (("direct", direct), ("through", through)):
            rates[name].append(way.download() / 1e6)
            times[name] += way.trips()
        say(
            f"round {turn + 1}: {rates['direct'][-1]:.0f} MB/s directly, {rates['through'][-1]:.0f} MB/s "
            f"through the gateway"
        )
    ended = threading.Event()
    busy = threading.Thread(target=other.download, args=(10**12,), kwargs={"until": ended})
    busy.start()
    time.sleep(0.5)
    beside = through.trips()
    ended.set()
    busy.join()
    ratio = statistics.median(rates["through"]) / statistics.median(rates["direct"])
    finish(
        ratio=round(ratio, 3),
        rtt_p99_delta_ms=round(p99(times["through"]) - p99(times["direct"]), 3),
        direct_mb_s=round(statistics.median(rates["direct"])),
        through_mb_s=round(statistics.median(rates["through"])),
        rtt_direct_p50_ms=round(statistics.median(times["direct"]) * 1000, 3),
        rtt_through_p50_ms=round(statistics.median(times["through"]) * 1000, 3),
        rtt_direct_p99_ms=round(p99(times["direct"]), 3),
        rtt_through_p99_ms=round(p99(times["through"]), 3),
        rtt_beside_a_download_p50_ms=round(statistics.median(beside) * 1000, 3),
        rtt_beside_a_download_p99_ms=round(p99(beside), 3),
    )


async def main():
    async with stage() as scene:
        port = free_port()
        await (await scene.agent(WEB_GATEWAY=f"127.0.0.1:{port}", VIEWER_RELAY=RELAY)).start()
        await scene.plane.wait_agent(scene.agent_id)
        ways = {}
        client = docker.APIClient(base_url=scene.host)
        for name in ("bulk-1", "bulk-2"):
            session_id = f"{scene.agent_id}-{name}"
            command = await scene.plane.start_session("bulk", session_id=session_id, manifest=manifest())
            await scene.plane.wait_command(command, timeout=60)
            (network,) = client.inspect_container(f"streamspace-{session_id}")["NetworkSettings"]["Networks"].values()
            ways[name] = Way((network["IPAddress"], 3000), session_id), Way(("127.0.0.1", port), session_id)
        client.close()
        await asyncio.to_thread(measure, *ways["bulk-1"], ways["bulk-2"][1])


if __name__ == "__main__":
    asyncio.run(main())
