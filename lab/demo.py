"""python -m lab.demo: a control plane, an agent and one desktop session, for real. DEMO_ONCE=1 runs through once and
exits.

Everything it starts is its own: a folder under /tmp, a control plane and an agent on loopback, containers of its agent
id. Several may run beside each other. What one left that was killed, the next one removes.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import tempfile
import time
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import docker
import requests
from docker.errors import DockerException, NotFound

from lab import novnc
from lab.engine import MainEngine
from lab.images import DESKTOP, Images
from lab.process import ours
from lab.say import LabError
from streamspace_devplane import DevPlane, PlaneError, Settings
from streamspace_devplane.templates import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

# Names of this run alone. With the machine's, for an engine may serve several and a pid says nothing about another one.
_HERE = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())
AGENT_ID = f"docker-demo-{_HERE}-{os.getpid()}"
SESSION = f"demo-{_HERE}-{os.getpid()}"
AGENT_LABEL = "streamspace.agent"
ENGINE_ERRORS = (DockerException, requests.RequestException)
STEP_TIMEOUT = 180.0
RELAY: Literal["deployed", "repaired"] = "deployed"
DESKTOP_TEMPLATE = {**TEMPLATES["desktop"], "spec": {**TEMPLATES["desktop"]["spec"], "baseImage": DESKTOP}}


class Timeline:
    """What took how long, as it happens and as a table at the end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._steps: list[tuple[str, float, str]] = []

    async def step(self, name: str, work: Awaitable[str]) -> None:
        print(f"demo: {name} ...", flush=True)
        began = time.monotonic()
        note = await work
        took = time.monotonic() - began
        self._steps.append((name, took, note))
        print(f"demo: {name}: {took:.2f} s{'  ' + note if note else ''}", flush=True)

    def show(self) -> None:
        print("\n  step                                  took   what was seen")
        for name, took, note in self._steps:
            print(f"  {name:<34} {took:>6.2f} s   {note}")
        print(f"  {'all':<34} {time.monotonic() - self._began:>6.2f} s\n", flush=True)


async def demo(environ: Mapping[str, str]) -> int:
    once = environ.get("DEMO_ONCE", "") not in {"", "0"}
    timeline = Timeline()
    engine = MainEngine(environ)
    stop = _told_to_stop()
    with (
        engine.use(keep=environ.get("LAB_KEEP") != "0") as host,
        tempfile.TemporaryDirectory(prefix="streamspace-demo-") as folder,
    ):
        home = Path(folder)
        await timeline.step("desktop image", asyncio.to_thread(_image, host, engine.state))
        viewer = await asyncio.to_thread(_novnc, engine.state)
        # The one template whose image is on this engine.
        plane = DevPlane(
            db=home / "plane.db", templates={"desktop": DESKTOP_TEMPLATE}, novnc=viewer, settings=Settings(relay=RELAY)
        )
        async with _cleaned(host), plane, _agent(plane, host, home) as agent:
            work = asyncio.create_task(_walk(plane, timeline, once=once))
            waits = {work, asyncio.create_task(stop.wait()), asyncio.create_task(agent.wait())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
                    if not once:
                        _where_to_look(plane, home, host)
                        await asyncio.wait(waits - {work}, return_when=asyncio.FIRST_COMPLETED)
                if agent.returncode is not None and not stop.is_set():
                    raise LabError(f"the agent ended with exit code {agent.returncode}; its log is above")
            finally:
                for task in waits:
                    task.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
                if agent.returncode is None:
                    await _stop_sessions(plane)
    if once:
        timeline.show()
    return 0


def _told_to_stop() -> asyncio.Event:
    """Set by Ctrl-C, by a request to end, and when the terminal is closed."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def hung_up() -> None:
        # To write to a terminal that is gone fails, and there is still something to clean up.
        for output in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        loop.add_signal_handler(signal.SIGHUP, hung_up)
    return stop


def _image(host: str, state: Path) -> str:
    with Images(host, state) as images:
        return images.ensure("desktop")


def _novnc(state: Path) -> Path | None:
    try:
        return novnc.folder(state)
    except LabError as error:  # the rest of the demo is worth seeing without it
        print(f"demo: the page has no viewer: {error}", file=sys.stderr)
        return None


@asynccontextmanager
async def _agent(plane: DevPlane, host: str, home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The agent as an operator runs it: its own process, settings in variables, the key in a file."""
    key = home / "key"
    key.touch(mode=0o600)
    key.write_text(await plane.issue_key(AGENT_ID))
    variables = {
        "AGENT_ID": AGENT_ID,
        "CONTROL_PLANE_URL": plane.ws_url,
        "VIEWER_RELAY": RELAY,
        "AGENT_API_KEY_FILE": str(key),
        "DOCKER_HOST": host,
        "STATE_DIR": str(home / "state"),
        "NETWORK_NAME": f"streamspace-{AGENT_ID}",
        # More often than by default: something moves on the page.
        "HEALTH_CHECK_INTERVAL": "5s",
        "USAGE_INTERVAL": "2s",
    }
    # In a session of its own: Ctrl-C is for us, who stop the session first.
    agent = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("docker-agent"), "run", env={**os.environ, **variables}, start_new_session=True
    )
    try:
        yield agent
    finally:
        if agent.returncode is None:
            agent.terminate()
            with suppress(ProcessLookupError, TimeoutError):
                async with asyncio.timeout(60):
                    await agent.wait()
        if agent.returncode is None:
            agent.kill()
            await agent.wait()


async def _walk(plane: DevPlane, timeline: Timeline, *, once: bool) -> None:
    await timeline.step("agent connected", _connected(plane))
    await timeline.step("session started", started(plane))
    if once:
        await timeline.step("screen through the tunnel", _greeted(plane))
        await timeline.step("session hibernated", _command(plane, plane.hibernate_session(SESSION), "hibernated"))
        await timeline.step("session woken", _command(plane, plane.wake_session(SESSION), "running"))
        await timeline.step("screen through the tunnel", _greeted(plane))
        await timeline.step(
            "session stopped", _command(plane, plane.stop_session(SESSION, deletePVC=True), "terminated")
        )


async def _connected(plane: DevPlane) -> str:
    agent = await plane.wait_agent(AGENT_ID, timeout=30)
    return f"agent {agent['agentId']} is {agent['status']}"


async def started(plane: DevPlane) -> str:
    return await _command(plane, plane.start_session("desktop", session_id=SESSION, user="demo"), "running")


async def _greeted(plane: DevPlane) -> str:
    """What a viewer sees first: the VNC server's greeting, come all the way through agent and control plane."""
    viewer = await plane.open_viewer(SESSION)
    try:
        async with asyncio.timeout(30):
            greeting = await viewer.recv()
    finally:
        await viewer.close()
    if not greeting.startswith(b"RFB "):
        raise LabError(f"the viewer was greeted with {greeting!r}, no VNC server does that")
    return f"a viewer was greeted with {greeting[:11].decode()}"


async def _command(plane: DevPlane, sent: Awaitable[str], state: str) -> str:
    row = await plane.wait_command(await sent, "completed,failed", timeout=STEP_TIMEOUT)
    if row["state"] != "completed":
        raise LabError(f"{row['action']} failed: {row['error']}")
    # A viewer is let in once VNC is ready, which may be later.
    session = await plane.wait_session(SESSION, state=state, vnc_ready=True if state == "running" else None, timeout=30)
    ready = ", its VNC server greeted" if session["vncReady"] else ""
    return f"session is {session['state']}{ready}"


def _where_to_look(plane: DevPlane, home: Path, host: str) -> None:
    tool = Path(sys.executable).parent
    print(
        f"""
demo: a desktop session runs. Its desktop, and all there is to see, in a browser on this machine:

  the control plane's page        {plane.url}/
  the desktop itself              {plane.url}/sessions/{SESSION}/view

Or from another terminal:

  what the agent says of itself   AGENT_ID={AGENT_ID} STATE_DIR={home / "state"} {tool}/docker-agent status
  sessions and commands           {tool}/streamspace-devplane --url {plane.url} ls
  the container                   docker -H {host} ps --filter label={AGENT_LABEL}={AGENT_ID}

  Ctrl-C ends it all and cleans up.
""",
        flush=True,
    )


async def _stop_sessions(plane: DevPlane) -> None:
    """Stop what the demo started; a session that is gone already is fine."""
    with suppress(PlaneError):
        for session in await plane.sessions():
            if session["state"] != "terminated":
                print(f"demo: stopping session {session['sessionId']}", flush=True)
                command = await plane.stop_session(session["sessionId"], deletePVC=True)
                await plane.wait_command(command, "completed,failed", timeout=60)


@asynccontextmanager
async def _cleaned(host: str) -> AsyncIterator[None]:
    """The engine has nothing of us before and after the block."""
    await asyncio.to_thread(_clean, host)
    try:
        yield
    finally:
        try:
            await asyncio.to_thread(_clean, host)
        except ENGINE_ERRORS as error:  # told beside what went wrong before it, not instead
            print(f"demo: {AGENT_ID} left something on {host}: {_line(error)}", file=sys.stderr)


def _clean(host: str) -> None:
    """Remove from the engine what this demo made, and what those of this machine left that run no more.

    The agent keeps its network for the next sessions, and one that died its containers, which hold networks and
    volumes."""
    only = {"label": AGENT_LABEL}
    with closing(docker.APIClient(base_url=host)) as client:
        for container in filter(_over, client.containers(all=True, filters=only)):
            _remove(client.remove_container, container["Id"], force=True, v=True)
        for volume in filter(_over, client.volumes(filters=only)["Volumes"] or []):
            _remove(client.remove_volume, volume["Name"])
        for network in filter(_over, client.networks(filters=only)):
            _remove(client.remove_network, network["Id"])


def _over(found: Mapping[str, Mapping[str, str]]) -> bool:
    """Is it of a demo that does not run any more, or of this one?"""
    demo = re.fullmatch(rf"docker-demo-{re.escape(_HERE)}-(\d+)", found["Labels"][AGENT_LABEL])
    return demo is not None and (int(demo[1]) == os.getpid() or not ours(int(demo[1]), "lab.demo"))


def _remove(remove: Callable[..., object], name: str, **how: bool) -> None:
    with suppress(NotFound):  # another demo cleans up as well
        remove(name, **how)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def main(environ: Mapping[str, str]) -> int:
    try:
        return asyncio.run(demo(environ))
    except (LabError, PlaneError) as error:
        print(f"demo: {error}", file=sys.stderr)
    except ENGINE_ERRORS as error:
        print(f"demo: the Docker engine refused or is gone: {_line(error)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(os.environ))
