"""Templates of the shapes that a catalogue holds, against images that speak what the real ones speak."""

import asyncio
import re

import pytest

from tests.names import sid

READY_TIMEOUT = "20s"
UNANSWERED = "no VNC greeting and no usable HTTP answer on port"


def ports(*numbers, name="", protocol="TCP"):
    return {"ports": [{"name": name, "containerPort": number, "protocol": protocol} for number in numbers]}


# Name: what the template's spec says, what its image speaks, the port and protocol found there, or why its start fails.
CATALOGUE = {
    "web on 8080": (ports(8080, name="http"), "web:8080", (8080, "http")),
    "web on a port named vnc": (ports(3000, name="vnc"), "web:3000", (3000, "http")),
    "web behind a proxy that starts first": (ports(3000, name="vnc"), "starting:3000", (3000, "http")),
    "KasmVNC": ({"kasmvnc": {"enabled": True, "port": 6901}, **ports(6901, name="vnc")}, "kasmvnc:6901", (6901, "http")),
    "KasmVNC whose section the sync has dropped": (ports(6901, name="vnc"), "kasmvnc:6901", (6901, "http")),
    "webapp with a path": ({"webapp": {"enabled": True, "port": 8080, "path": "/app/"}}, "web:8080", (8080, "http")),
    "webapp with a health check": (
        {"webapp": {"enabled": True, "port": 8080, "path": "/", "healthCheck": "/health"}, **ports(9000)},
        "healthy:8080",
        (8080, "http"),
    ),
    "nested resources": (
        {"defaultResources": {"requests": {"memory": "32Mi", "cpu": "100m"}, "limits": {"memory": "64Mi"}}, **ports(3000)},
        "web:3000",
        (3000, "http"),
    ),
    "VNC on 5901": ({"vnc": {"enabled": True, "port": 5901, "protocol": "rfb"}}, "rfb:5901", (5901, "vnc")),
    "VNC on a port named http": (ports(8080, name="http"), "rfb:8080", (8080, "vnc")),
    "VNC that greets after three seconds": (ports(5900, name="vnc"), "slow-rfb:5900", (5900, "vnc")),
    "VNC that has had too many connections": (ports(5900, name="vnc"), "full-rfb:5900", (5900, "vnc")),
    "a vnc section where HTTP is spoken": ({"vnc": {"enabled": True, "port": 3000}}, "web:3000", (3000, "http")),
    "no ports": ({}, "rfb:5900", (5900, "vnc")),
    "an empty list of ports": ({"ports": []}, "web:5900", (5900, "http")),
    "several ports": (ports(8080, 5900), "web:8080 rfb:5900", (8080, "http")),
    "UDP ports among them": (
        {"ports": ports(3478, protocol="UDP")["ports"] + ports(3001)["ports"]}, "web:3001", (3001, "http"),
    ),
    "ports as strings": (ports("8443"), "kasmvnc:8443", (8443, "http")),
    "no desktop, but a port": ({"vnc": {"enabled": False}, **ports(8888)}, "web:8888", (8888, "http")),
    "no desktop and no port": ({"vnc": {"enabled": False}}, "mute:9", (0, None)),
    "an image that says nothing": (
        {"webapp": {"enabled": True, "port": 3000, "healthCheck": "/health"}},
        "mute:3000",
        f"not_ready: {UNANSWERED} 3000 within 20.0 s (READY_TIMEOUT): connected, but nothing was said; asked GET /health over HTTP",
    ),
    "an image that closes when it is asked": (
        ports(3000),
        "closing:3000",
        f"not_ready: {UNANSWERED} 3000 within 20.0 s (READY_TIMEOUT): connected, but the connection was closed without a word; asked GET / over HTTP",
    ),
    "an image that listens elsewhere": (
        ports(3000),
        "web:8080",
        f"not_ready: {UNANSWERED} 3000 within 20.0 s (READY_TIMEOUT): nothing listened there; last log lines:\nsession: web:8080",
    ),
    "a port that is none": (ports(70000), "web:3000", "invalid_port: ports[0].containerPort is 70000, a port is 1 to 65535"),
    "a port that is a name": (ports("http"), "web:3000", "invalid_template: templateManifest: spec.ports.0.containerPort: "),
    "a health check that is no path": (
        {"webapp": {"enabled": True, "port": 3000, "healthCheck": "http://localhost:3000/health"}},
        "web:3000",
        "invalid_template: webapp.healthCheck 'http://localhost:3000/health' is not the path of a URL: begin with a slash",
    ),
    "an empty manifest": (None, "web:3000", "missing_template: the command has no templateManifest"),
}  # fmt: skip


def told(result):
    """A line of the table: the port that was asked, and what came of it."""
    if isinstance(result, str):
        port = re.search(r"on port (\d+)", result)
        return port[1] if port else "-", f"failed: {result.splitlines()[0]}"
    port, protocol = result
    return port or "-", f"running, {protocol} found" if protocol else "running, nothing to ask"


@pytest.fixture
async def outcome(plane, standin_image):
    """Start a template; what its command and its session came to."""

    async def start(session_id, spec, speaks, **more):
        manifest = {} if spec is None else {"metadata": {"name": "t"}, "spec": {"baseImage": standin_image, **spec}}
        wish = {"manifest": manifest, "environment": {"SPEAKS": speaks}, "memory": "64Mi", "cpu": "100m", **more}
        command = await plane.start_session(session_id=session_id, **wish)
        row = await plane.wait_command(command, "completed,failed", timeout=60)
        if row["state"] == "failed":
            return row["error"]
        result, session = row["result"], await plane.wait_session(session_id, state="running", vnc_ready=True)
        assert result["vncPort"] == session["vncPort"]
        assert result.get("protocol") == session["platformMetadata"].get("protocol")
        return result["vncPort"], result.get("protocol")

    return start


async def test_each_template_starts_with_what_it_speaks_found_out_or_is_refused_for_a_true_reason(
    plane, make_agent, agent_id, outcome, owned
):
    agent = await (await make_agent(READY_TIMEOUT=READY_TIMEOUT)).start()
    await plane.wait_agent(agent_id)
    found = await asyncio.gather(
        *(outcome(sid(f"c{n}"), spec, speaks) for n, (spec, speaks, _) in enumerate(CATALOGUE.values()))
    )
    print("\ntemplate | its image speaks | port asked | outcome")
    for (name, (_, speaks, _)), result in zip(CATALOGUE.items(), found, strict=True):
        print(name, speaks, *told(result), sep=" | ")
    for (name, (_, _, expected)), result in zip(CATALOGUE.items(), found, strict=True):
        shown = result[: len(expected)] if isinstance(expected, str) and isinstance(result, str) else result
        assert (name, shown) == (name, expected)
    started = sum(not isinstance(expected, str) for _, _, expected in CATALOGUE.values())
    assert len(owned()["containers"]) == started
    assert "Traceback" not in agent.log


async def test_what_a_session_speaks_is_told_anew_after_a_wake_by_another_agent_process(
    plane, agent, make_agent, agent_id, manifest
):
    """Its image speaks VNC in its first run and HTTP from then on."""
    name, changing = sid("turn"), manifest(MODE="changes", spec={"vnc": None})
    start = await plane.wait_command(await plane.start_session(session_id=name, manifest=changing))
    assert start["result"]["protocol"] == "vnc"
    await plane.wait_command(await plane.hibernate_session(name))
    await agent.kill()
    await (await make_agent("second")).start()
    wake = await plane.wait_command(await plane.wake_session(name), timeout=60)
    assert (wake["result"]["protocol"], wake["result"]["vncPort"]) == ("http", 5900)
    session = await plane.wait_session(name, state="running", vnc_ready=True)
    assert session["platformMetadata"]["protocol"] == "http"
