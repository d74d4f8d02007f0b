"""Templates of the shapes that a catalogue holds, against images that speak what the real ones speak."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from streamspace_devplane.catalogue import load_folder
from tests.names import sid

CATALOGUE = Path(__file__).parents[1] / "data/catalogue"
READY_TIMEOUT = "20s"
HEALTH = "/lab/api/health"


def not_ready(port, why):
    return f"not_ready: no VNC greeting and no usable HTTP answer on port {port} within 20.0 s (READY_TIMEOUT): {why}"


@dataclass(frozen=True)
class Case:
    """What an image speaks (see lab/image/standin), and the port and protocol found there or why the start fails."""

    speaks: str
    outcome: tuple[int, str | None] | str


# The folder's files: those that the catalogue's sync passes on, and those that can reach an agent only by another way.
SYNCED = {
    "browser-8080": Case("web:8080", (8080, "http")),
    "desktop-vnc-5901": Case("rfb:5901", (5901, "vnc")),
    "drawing-kasmvnc": Case("web:3000", not_ready(5900, "nothing listened there; last log lines:\nsession: web:3000")),
    "game-udp": Case("web:8080", (8080, "http")),
    "named-vnc-speaks-http": Case("web:5900", (5900, "http")),
    "no-ports": Case("rfb:5900", (5900, "vnc")),
    "notebook-webapp": Case("healthy:8888", (8888, "http")),
    "office-vnc-3000": Case("starting:3000", (3000, "http")),
    "several-ports": Case("web:3000 kasmvnc:3001 web:9090", (3000, "http")),
}
AS_WRITTEN = {
    "drawing-kasmvnc": Case("web:3000", (3000, "http")),
    "empty-manifest": Case("web:3000", "invalid_template: templateManifest: spec: field required"),
    "nested-resources": Case("web:3000", (3000, "http")),
    "string-ports": Case("kasmvnc:3000", (3000, "http")),
}


def ports(*numbers, name=""):
    return {"ports": [{"name": name, "containerPort": number, "protocol": "TCP"} for number in numbers]}


# Further shapes: what the template's spec says beside its image.
SHAPES = {
    "no manifest": (None, Case("web:3000", "missing_template: the command has no templateManifest")),
    "KasmVNC over TLS": ({"kasmvnc": {"enabled": True, "port": 6901}}, Case("kasmvnc:6901", (6901, "http"))),
    "KasmVNC over TLS, its section dropped": (ports(6901, name="vnc"), Case("kasmvnc:6901", (6901, "http"))),
    "VNC on a port named http": (ports(8080, name="http"), Case("rfb:8080", (8080, "vnc"))),
    "VNC where a web page is promised": ({"webapp": {"port": 8080}}, Case("rfb:8080", (8080, "vnc"))),
    "VNC that greets after three seconds": (ports(5900, name="vnc"), Case("slow-rfb:5900", (5900, "vnc"))),
    "VNC that had too many connections": (ports(5900, name="vnc"), Case("full-rfb:5900", (5900, "vnc"))),
    "a vnc section, and HTTP": ({"vnc": {"enabled": True, "port": 3000}}, Case("web:3000", (3000, "http"))),
    "no desktop, but a port": ({"vnc": {"enabled": False}, **ports(8888)}, Case("web:8888", (8888, "http"))),
    "no desktop and no port": ({"vnc": {"enabled": False}}, Case("mute:9000", (0, None))),
    "an image that says nothing": (
        {"webapp": {"enabled": True, "port": 3000, "healthCheck": "/health"}},
        Case("mute:3000", not_ready(3000, "connected, but nothing was said; asked GET /health over HTTP")),
    ),
    "an image that closes when it is asked": (
        ports(3000),
        Case("closing:3000", not_ready(
            3000, "connected, but the connection was closed without a word; asked GET / over")),
    ),
    "an image that is not healthy": (
        {"webapp": {"enabled": True, "port": 3000, "path": "/"}},
        Case("healthy:3000", not_ready(3000, "the last answer had the HTTP status 503; asked GET / over HTTP")),
    ),
    "a port that is none": (
        ports(70000), Case("web:3000", "invalid_port: ports[0].containerPort is 70000, a port is 1 to 65535"),
    ),
    "a port that is a name": (
        ports("http"),
        Case("web:3000", "invalid_template: templateManifest: spec.ports.0.containerPort: input should be"),
    ),
    "a health check that is no path": (
        {"webapp": {"enabled": True, "port": 3000, "healthCheck": "http://localhost/health"}},
        Case("web:3000", "invalid_template: webapp.healthCheck 'http://localhost/health' is not the path of a URL"),
    ),
}  # fmt: skip


def written(name):
    return yaml.safe_load((CATALOGUE / f"{name}.yaml").read_text())


def all_cases(image):
    """Name, manifest and case of each template."""
    synced = load_folder(CATALOGUE)
    assert synced.keys() == SYNCED.keys()
    assert {file.stem for file in CATALOGUE.iterdir()} == SYNCED.keys() | AS_WRITTEN.keys()
    cases = [(name, synced[name], case) for name, case in SYNCED.items()]
    cases += [(f"{name}, as written", written(name), case) for name, case in AS_WRITTEN.items()]
    cases += [(name, spec and {"spec": spec}, case) for name, (spec, case) in SHAPES.items()]
    return [(name, on(image, manifest), case) for name, manifest, case in cases]


def on(image, manifest):
    """The same template with the image that stands in for its own."""
    if manifest and "spec" in manifest:
        return manifest | {"spec": manifest["spec"] | {"baseImage": image}}
    return manifest or {}


def told(result):
    """A line of the table: the port that was asked, and what came of it."""
    if isinstance(result, str):
        port = re.search(r"on port (\d+)", result)
        return port[1] if port else "-", f"failed: {result.splitlines()[0]}"
    port, protocol = result
    return port or "-", f"running, {protocol} found" if protocol else "running, nothing to ask"


async def outcome(plane, session_id, manifest, speaks):
    """What a start and its session came to."""
    environment = {"SPEAKS": speaks, "HEALTH": HEALTH}
    wish = {"manifest": manifest, "environment": environment, "memory": "64Mi", "cpu": "100m"}
    command = await plane.start_session(session_id=session_id, **wish)
    row = await plane.wait_command(command, "completed,failed", timeout=80)
    if row["state"] == "failed":
        return row["error"]
    result, session = row["result"], await plane.wait_session(session_id, state="running", vnc_ready=True)
    assert result["vncPort"] == session["vncPort"]
    assert result.get("protocol") == session["platformMetadata"].get("protocol")
    return result["vncPort"], result.get("protocol")


async def test_each_template_starts_with_what_it_speaks_found_out_or_is_refused_for_a_true_reason(
    plane, make_agent, agent_id, standin_image, owned
):
    agent = await (await make_agent(READY_TIMEOUT=READY_TIMEOUT)).start()
    await plane.wait_agent(agent_id)
    cases = all_cases(standin_image)
    starts = [outcome(plane, sid(f"c{n}"), manifest, case.speaks) for n, (_, manifest, case) in enumerate(cases)]
    results = list(zip(cases, await asyncio.gather(*starts), strict=True))
    print("\ntemplate | its image speaks | port asked | outcome")
    for (name, _, case), result in results:
        print(name, case.speaks, *told(result), sep=" | ")
    for (name, _, case), result in results:
        shown = result[: len(case.outcome)] if isinstance(case.outcome, str) else result
        assert (name, shown) == (name, case.outcome)
    assert len(owned()["containers"]) == sum(not isinstance(case.outcome, str) for _, _, case in cases)
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
    await plane.wait_agent(agent_id)
    wake = await plane.wait_command(await plane.wake_session(name), timeout=60)
    assert (wake["result"]["protocol"], wake["result"]["vncPort"]) == ("http", 5900)
    session = await plane.wait_session(name, state="running", vnc_ready=True)
    assert session["platformMetadata"]["protocol"] == "http"
