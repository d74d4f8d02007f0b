"""The command `streamspace-devplane serve`: runs the control plane until a signal."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import ssl
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError

from streamspace_devplane.catalogue import Catalogue, load_folder
from streamspace_devplane.plane import LOOPBACK, DevPlane
from streamspace_devplane.settings import BANNER, Settings
from streamspace_devplane.templates import TEMPLATES, Manifest
from streamspace_devplane.web.novnc import HELP, is_novnc

BOOTSTRAP = "bootstrap"
FILE = click.Path(path_type=Path, exists=True)
FOLDER = click.Path(path_type=Path, file_okay=False)


def settings_from(pairs: tuple[str, ...]) -> Settings:
    names = {field.name for field in fields(Settings)}
    changes = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in names:
            raise click.BadParameter(f"no setting {name!r}; there are {', '.join(sorted(names))}", param_hint="--set")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            problem = f"{name} needs a number, true, false or null, not {value!r}"
            raise click.BadParameter(problem, param_hint="--set") from None
    try:
        return TypeAdapter(Settings).validate_json(json.dumps(changes), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())
        raise click.BadParameter(problems, param_hint="--set") from None


def checked_agents(_context: click.Context, _option: click.Parameter, agents: tuple[str, ...]) -> tuple[str, ...]:
    """Each id is part of a file name: its key's, beside the bootstrap key's."""
    for agent in agents:
        if not 3 <= len(agent) <= 100 or "/" in agent or agent == BOOTSTRAP:
            raise click.BadParameter(f"{agent!r} is no agent id: 3 to 100 characters, without '/', not {BOOTSTRAP!r}")
    return agents


def template_in(file: Path) -> tuple[str, Manifest]:
    try:
        manifest = json.loads(file.read_text())
        return str(manifest["metadata"]["name"]), manifest
    except (ValueError, KeyError, TypeError) as error:
        raise click.BadParameter(f"{file} holds no template in JSON: {error!r}", param_hint="--template") from None


def tls_context(cert: Path | None, key: Path | None, client_ca: Path | None) -> ssl.SSLContext | None:
    """The TLS context, if any. With `client_ca`, agents may use a certificate instead of a key; its CN is their id."""
    if cert is None:
        if key or client_ca:
            raise click.UsageError(f"{'--tls-key' if key else '--client-ca'} has no effect without --tls-cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    hint, what = "--tls-cert", f"{cert} with the key in {key or cert}"
    try:
        context.load_cert_chain(cert, key)
        if client_ca:
            hint, what = "--client-ca", str(client_ca)
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except OSError as error:  # including ssl.SSLError
        raise click.BadParameter(f"cannot use {what}: {error}; PEM is needed", param_hint=hint) from None
    return context


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Create the directory and lock it for the block: two planes with one database would send each other's commands."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state_dir / "lock").open("w")
    except OSError as error:
        raise click.BadParameter(f"cannot use {error.filename}: {error.strerror}", param_hint="--state-dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = f"another plane serves {state_dir}: choose another"
            raise click.BadParameter(problem, param_hint="--state-dir") from None
        yield


def write_key(path: Path, key: str) -> None:
    """Write a file that is never readable by others."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")


def key_in_file(plane: DevPlane, path: Path, agent_id: str | None) -> str:
    """The key in a file if this plane knows it, else a new one, which is written there."""
    if path.exists():
        key = path.read_text().strip()
        if plane.hub.store.key_owner(key) == (True, agent_id):
            return key
    key = plane.hub.store.issue_key(agent_id)
    write_key(path, key)
    return key


class UntilEof(asyncio.Protocol):
    """Sets `ended` at the end of standard input: the process that started this one has ended."""

    def __init__(self, ended: asyncio.Event) -> None:
        self.ended = ended

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set()


async def run(
    plane: DevPlane, state_dir: Path, agents: tuple[str, ...], *, show_key: bool, as_json: bool, exit_with_stdin: bool
) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    if exit_with_stdin:
        await asyncio.get_running_loop().connect_read_pipe(lambda: UntilEof(ended), sys.stdin)
    async with plane:
        files = {agent: state_dir / f"{agent}.key" for agent in agents}
        keys = {agent: key_in_file(plane, file, agent) for agent, file in files.items()}
        bootstrap_file = state_dir / f"{BOOTSTRAP}.key"
        bootstrap = key_in_file(plane, bootstrap_file, None)
        if as_json:
            addresses = {"url": plane.url, "controlPlaneUrl": plane.ws_url, "bootstrapKeyFile": str(bootstrap_file)}
            click.echo(json.dumps({**addresses, "agentKeyFiles": {agent: str(file) for agent, file in files.items()}}))
        else:
            click.echo(f"StreamSpace {BANNER}\n")
            click.echo(f"  page                {plane.url}/")
            if plane.novnc is None:
                click.echo(f"                      ({HELP})")
            click.echo(f"  CONTROL_PLANE_URL   {plane.ws_url}")
            click.echo(f"  bootstrap key       {bootstrap_file}" + (f"  {bootstrap}" if show_key else ""))
            for agent, file in files.items():
                click.echo(f"  key of {agent:<12} {file}" + (f"  {keys[agent]}" if show_key else ""))
            click.echo(
                "\nWith the bootstrap key an agent waits for `streamspace-devplane approve AGENT_ID`. End with Ctrl-C."
            )
        await ended.wait()


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on; others are refused."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--state-dir",
    type=FOLDER,
    envvar="STREAMSPACE_DEVPLANE_STATE",
    default=Path("~/.local/state/streamspace-devplane"),
    show_default=True,
    help="Where the database and the key files live; the same directory continues where it ended.",
)
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="AGENT_ID",
    callback=checked_agents,
    help="Issue a key for this agent, so that it needs no approval. Repeatable.",
)
@click.option("--show-key", is_flag=True, help="Print keys too, not only the files they are in.")
@click.option("--tls-cert", type=FILE, help="Serve https/wss with this certificate chain.")
@click.option("--tls-key", type=FILE, help="Its private key.")
@click.option("--client-ca", type=FILE, help="Accept agents' certificates of this CA instead of keys.")
@click.option(
    "--template",
    "manifests",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="A template (JSON) to offer beside the samples, or instead of the one of its name. Repeatable.",
)
@click.option(
    "--templates",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Offer the template files (YAML) of a folder as well, as the control plane's catalogue sync reads them.",
)
@click.option(
    "--novnc",
    type=FOLDER,
    help="Folder of noVNC, for the page's viewer; found by itself where a package installed it.",
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change one of the protocol's numbers, such as stale_after=5. Repeatable.",
)
@click.option(
    "--relay",
    type=click.Choice(["deployed", "repaired"]),
    help="Which kind of viewer relay to play; the agent's VIEWER_RELAY has to be the same. [default: deployed]",
)
@click.option(
    "--web-gateway",
    metavar="HOST[:PORT]",
    help="Ask this address for web sessions, instead of resolving SESSION.streamspace.svc.cluster.local.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON once it serves.")
@click.option(
    "--exit-with-stdin", is_flag=True, help="End when standard input does, so that no parent can leave it behind."
)
def serve(
    host: str,
    port: int,
    state_dir: Path,
    agents: tuple[str, ...],
    show_key: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    manifests: tuple[Path, ...],
    folder: Path | None,
    novnc: Path | None,
    pairs: tuple[str, ...],
    relay: str | None,
    web_gateway: str | None,
    as_json: bool,
    exit_with_stdin: bool,
) -> None:
    """Run the control plane until Ctrl-C.

    \b
    First steps:
      streamspace-devplane serve --agent my-agent
      AGENT_ID=my-agent CONTROL_PLANE_URL=ws://127.0.0.1:8000 AGENT_API_KEY_FILE=<the file it names> docker-agent
      streamspace-devplane start desktop
    """
    if host not in LOOPBACK:
        problem = f"{host} is not loopback; this is for development only, use one of {', '.join(LOOPBACK)}"
        raise click.BadParameter(problem, param_hint="--host")
    if novnc and not is_novnc(novnc):
        raise click.BadParameter(f"{novnc} holds no core/rfb.js, so it is not noVNC", param_hint="--novnc")
    named = {"relay": relay, "web_gateway": web_gateway}
    settings = settings_from((*pairs, *(f"{name}={json.dumps(value)}" for name, value in named.items() if value)))
    tls = tls_context(tls_cert, tls_key, client_ca)
    catalogue = load_folder(folder) if folder else Catalogue()
    for reason in catalogue.refused:
        click.echo(reason, err=True)
    templates = {**TEMPLATES, **catalogue, **dict(map(template_in, manifests))}
    state_dir = state_dir.expanduser()
    with only_one(state_dir):
        db = state_dir / "plane.db"
        plane = DevPlane(db, port, host=host, settings=settings, tls=tls, templates=templates, novnc=novnc)
        try:
            asyncio.run(
                run(plane, state_dir, agents, show_key=show_key, as_json=as_json, exit_with_stdin=exit_with_stdin)
            )
        except sqlite3.Error as error:
            problem = f"cannot use {db}: {error}; move it away, or choose another --state-dir"
        except OSError as error:
            problem = f"cannot serve on {host} port {port}: {error.strerror or error}; choose another with --port"
            if error.filename is not None:
                problem = f"cannot use {error.filename}: {error.strerror}; remove it, or choose another --state-dir"
        else:
            return
        raise click.ClickException(problem)
