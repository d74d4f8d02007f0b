"""The command `streamspace-devplane`: serve, and control a plane that runs."""

import asyncio
import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

import click
from websockets.exceptions import ConnectionClosed, InvalidStatus

from streamspace_devplane.agents.envelopes import ENDED
from streamspace_devplane.cli.serve import serve
from streamspace_devplane.client import PlaneClient, ViewerConnection
from streamspace_devplane.errors import PlaneError
from streamspace_devplane.store import Row
from streamspace_devplane.tasks import first_done

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
waits = click.option("--wait", is_flag=True, help="Until the agent reports the result.")
SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@click.group()
@click.option(
    "--url",
    envvar="STREAMSPACE_DEVPLANE_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="The plane to talk to.",
)
@click.version_option(package_name="streamspace-devplane")
@click.pass_context
def main(context: click.Context, url: str) -> None:
    """A StreamSpace control plane for development and tests.

    `serve` runs it; all other commands talk to the one that runs (--url or STREAMSPACE_DEVPLANE_URL).

    \b
    A session's life:
      streamspace-devplane start desktop --user ada --wait
      streamspace-devplane ls
      streamspace-devplane view SESSION           (then: vncviewer 127.0.0.1:5950)
      streamspace-devplane hibernate SESSION
      streamspace-devplane wake SESSION
      streamspace-devplane stop SESSION           (--delete-volumes: and what it kept)
    """
    context.obj = url.rstrip("/")


main.add_command(serve)


def talks(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a click command of a coroutine whose first argument is the plane's client."""

    @functools.wraps(command)
    def performed(**options: Any) -> None:
        context = click.get_current_context()

        async def talk() -> None:
            async with PlaneClient(context.obj) as client:
                await command(client, **options)

        try:
            asyncio.run(talk())
        except PlaneError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            context.exit(130)

    return performed


def table(rows: list[Row], *columns: str) -> None:
    lines = [columns, *(tuple("-" if row[name] is None else str(row[name]) for name in columns) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


async def report(client: PlaneClient, command: Row, wait: bool, as_json: bool) -> None:
    """Print what became of a command, given by its row or the answer that named it."""
    if wait:
        command = await client.wait_command(command["commandId"], "completed,failed", timeout=600)
    if as_json:
        click.echo(json.dumps(command))
    else:
        if not wait:
            command = await client.command(command["commandId"])
        waits = command["state"] == "pending"
        state = f"waits for agent {command['agentId']}, which is not connected" if waits else command["state"]
        click.echo(f"{command['sessionId']}: command {command['commandId']} {state}")
    if command.get("state") == "failed":
        by = "the agent reports" if command["sentAt"] else f"it was not sent to agent {command['agentId']}"
        raise click.ClickException(f"{by}: {command['error']}")


def variable(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--env")
    return name, value


def session_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    if name is not None and not SESSION_NAME.fullmatch(name):
        raise click.BadParameter(
            f"{name!r} is no session id: letters, digits, '.', '_' and '-', 100 at most, the first a letter or digit"
        )
    return name


def reason(session: Row) -> str | None:
    """The reason for a session's state in one line, from the agent or the plane."""
    given = session["platformMetadata"].get("reason") or session["startError"]
    return " ".join(str(given).split()) if given else None


@main.command()
@click.argument("template", default="desktop")
@click.option("--session", "session_id", callback=session_name, help="Session id; else one is made up.")
@click.option("--agent", "agent_id", help="Agent to run it; else the connected one with the fewest sessions.")
@click.option("--user", default="dev", show_default=True)
@click.option("--memory", help="Such as 2Gi.")
@click.option("--cpu", help="Such as 1000m.")
@click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="Environment of the session. Repeatable.")
@click.option("--persistent-home", is_flag=True, help="Keep the home volume.")
@click.option("--manifest", type=click.File(), help="A Template resource as JSON, instead of a sample template.")
@waits
@as_json
@talks
async def start(
    client: PlaneClient, env: tuple[str, ...], manifest: Any, wait: bool, as_json: bool, **wish: Any
) -> None:
    """Start a session of TEMPLATE: desktop, firefox or notebook."""
    body = {name: value for name, value in wish.items() if value is not None}
    if env:
        body["environment"] = dict(map(variable, env))
    if manifest:
        try:
            body["manifest"] = json.load(manifest)
        except ValueError as error:
            raise click.BadParameter(f"{manifest.name} holds no JSON: {error}", param_hint="--manifest") from None
    if agent := body.get("agent_id"):
        # Fails if there is no such agent, whose command would wait for ever.
        await client.call("GET", f"/agents/{quote(agent, safe='')}")
    await report(client, await client.launch(**body), wait, as_json)


def session_command(verb: str, summary: str, *options: Callable[[Any], Any]) -> None:
    """Add a command. `options` are flags named as keys of the command's payload, which are sent if given."""

    async def ask(client: PlaneClient, session: str, wait: bool, as_json: bool, **extra: bool) -> None:
        payload = {name: True for name, given in extra.items() if given}
        state = (await client.session(session))["state"]
        if verb != "stop" and state in ENDED:  # a stop also deletes the volumes of an ended one
            raise PlaneError(f"session {session!r} is {state}: there is nothing to {verb}, start it anew")
        await report(client, await client.call("POST", f"/sessions/{session}/{verb}", payload), wait, as_json)

    command = talks(ask)
    for option in (as_json, waits, *options, click.argument("session", callback=session_name)):
        command = option(command)
    main.command(verb, help=summary)(command)


delete_volumes = click.option(
    "--delete-volumes", "deletePVC", is_flag=True, help="Delete its volumes too, such as a kept home."
)
session_command("stop", "Stop SESSION for good.", delete_volumes)
session_command("hibernate", "Hibernate SESSION; `wake` brings it back.")
session_command("wake", "Wake a hibernated SESSION.")


@main.command()
@click.argument("name")
@click.option("--agent", is_flag=True, help="NAME is an agent, not connected: forget it with its sessions and keys.")
@talks
async def forget(client: PlaneClient, name: str, agent: bool) -> None:
    """Forget the session NAME, which no agent has: its start was refused, or still waits. All others end by `stop`."""
    await (client.forget_agent(name) if agent else client.forget_session(name))


@main.command("ls")
@as_json
@talks
async def list_all(client: PlaneClient, as_json: bool) -> None:
    """Agents and sessions."""
    agents, sessions = await client.agents(), await client.sessions()
    if as_json:
        click.echo(json.dumps({"agents": agents, "sessions": sessions}))
        return
    table(agents, "agentId", "platform", "approval", "status", "activeSessions")
    click.echo()
    rows = [{**session, "reason": reason(session)} for session in sessions]
    table(rows, "sessionId", "agentId", "user", "template", "state", "vncReady", "podName", "reason")


@main.command()
@click.argument("agent")
@click.option("--reject", is_flag=True, help="Reject it instead, for good.")
@talks
async def approve(client: PlaneClient, agent: str, reject: bool) -> None:
    """Approve AGENT, which registered with the bootstrap key."""
    if reject:
        await client.reject(agent)
    else:
        click.echo(f"{agent} may connect with the bootstrap key, or with its own: {await client.approve(agent)}")


@main.command()
@click.option("--after", default=0, help="Only events with a higher sequence number.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new ones.")
@click.option("--type", "kind", help="Only this type, such as ack or status.")
@as_json
@talks
async def events(client: PlaneClient, after: int, follow: bool, kind: str | None, as_json: bool) -> None:
    """The log of every message, both ways."""
    last = after
    while True:
        rows = await client.events(last, type=kind)
        for row in rows:
            last = row["seq"]
            arrow = {"to_agent": "->", "from_agent": "<-"}.get(row["direction"], "--")
            click.echo(
                json.dumps(row)
                if as_json
                else f"{last:6} {row['agentId'] or '-'} {arrow} {row['type']} {json.dumps(row['payload'])}"
            )
        if not follow and not rows:
            return
        if not rows:
            await asyncio.sleep(0.5)


@main.command()
@click.argument("switches", nargs=-1, metavar="[NAME=JSON]...")
@click.option("--clear", is_flag=True, help="Switch all off first.")
@talks
async def faults(client: PlaneClient, switches: tuple[str, ...], clear: bool) -> None:
    """Show or set fault switches.

    \b
    Examples:
      streamspace-devplane faults drop='{"types": ["ack"], "count": 1}'
      streamspace-devplane faults delay='{"seconds": 0.5, "direction": "to_agent"}'
      streamspace-devplane faults cut={}                        tear the link now
      streamspace-devplane faults refuse='{"status": 503, "seconds": 30}'
      streamspace-devplane faults blackhole={} ; streamspace-devplane faults blackhole=null
    """
    wish = {}
    for switch in switches:
        name, _, value = switch.partition("=")
        try:
            wish[name] = json.loads(value)
        except ValueError:
            raise click.BadParameter(f"{name} needs JSON after '=', not {value!r}") from None
    if clear:
        await client.clear_faults()
    click.echo(json.dumps(await client.set_faults(**wish), indent=2))


@main.command()
@click.argument("session")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5950,
    show_default=True,
    help="Loopback port for the VNC viewer; 0 takes a free one.",
)
@talks
async def view(client: PlaneClient, session: str, port: int) -> None:
    """Copy SESSION's VNC stream to a local port, for any VNC viewer, until Ctrl-C."""
    row = await client.session(session)
    try:
        server = await copy_to_tcp(client, session, port)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on 127.0.0.1 port {port}: {os.strerror(error.errno or 0)}; choose another with --port"
        ) from None
    if not row["vncReady"]:
        click.echo(f"session {session} is {row['state']}: viewers are turned away until its VNC is ready", err=True)
    async with server:
        click.echo(f"vncviewer 127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()


async def copy_to_tcp(client: PlaneClient, session_id: str, port: int) -> asyncio.Server:
    """Offer a session's VNC stream on a port of 127.0.0.1; each connection is a viewer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = contextlib.suppress(InvalidStatus, ConnectionClosed, ConnectionError)  # either side may leave
        with contextlib.closing(writer), left:
            async with await client.open_viewer(session_id) as viewer:
                await first_done(to_tcp(viewer, writer), from_tcp(viewer, reader))

    return await asyncio.start_server(serve, "127.0.0.1", port)


async def to_tcp(viewer: ViewerConnection, writer: asyncio.StreamWriter) -> None:
    async for data in viewer:
        assert isinstance(data, bytes)
        writer.write(data)
        await writer.drain()


async def from_tcp(viewer: ViewerConnection, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(65_536):
        await viewer.send(data)
