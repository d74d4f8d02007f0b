"""The command line: ``docker-agent [OPTIONS] [COMMAND]``."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs: a slow start is a slow fail-over

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict

import click

from streamspace_agent import __version__, logs
from streamspace_agent.cli import exit_codes, options
from streamspace_agent.cli.parsing import GivenSettings, SettingsGroup
from streamspace_agent.config import Settings
from streamspace_agent.errors import AgentError, ConfigError

HELP = """Run desktop sessions on this Docker host for a StreamSpace control plane.

The agent connects to the control plane; starts, hibernates, wakes and stops sessions as it is told; and relays their
screens. "docker-agent" without a command is "docker-agent run".

\b
Check this host and the settings, and start an agent:
  docker-agent check --agent-id docker-1 --control-plane-url wss://control.example.com
  docker-agent --agent-id docker-1 --control-plane-url wss://control.example.com \\
      --agent-api-key-file /etc/streamspace/key
See how it is doing:
  docker-agent status --agent-id docker-1

Every setting below is an option, and the environment variable in its brackets. If both are set, the option is used.
Options may be given before or after the command. "docker-agent COMMAND --help" explains a command.
"""


@click.group(
    cls=SettingsGroup,
    help=HELP,
    params=list(options.setting_options()),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="docker-agent", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    ctx.obj = GivenSettings(options.given(ctx))
    if ctx.invoked_subcommand is None:
        execute(ctx.obj)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(value: object) -> None:
    import json

    click.echo(logs.redact(json.dumps(value, indent=2, default=str)))


@cli.command(short_help="Run the agent (the default).")
@click.pass_obj
def run(given: GivenSettings) -> None:
    """Run the agent until it is told to stop. This is the default command.

    SIGTERM and Ctrl-C stop it: running commands get DRAIN_TIMEOUT to finish, sessions run on. A second signal ends the
    process at once.
    """
    execute(given)


def execute(given: GivenSettings) -> None:
    try:
        settings, environ = given.settings()
    except ConfigError as error:
        if given.choice("LOG_FORMAT").lower() != "json":
            raise
        logs.write_to(sys.stderr, logs.JsonFormatter())
        exit_codes.log_end(str(error), error.exit_code)
        sys.exit(error.exit_code)
    logs.configure(settings, {"agent": settings.agent_id})
    import asyncio

    asyncio.run(_run_and_leave(settings, environ))


async def _run_and_leave(settings: Settings, environ: Mapping[str, str]) -> None:
    """Run the agent and exit the process at once.

    Python would wait for its threads first, which may hang in a call to the engine or the network for minutes.
    """
    import logging

    from streamspace_agent import agent

    try:
        code = await agent.run(settings, environ)
    except AgentError as error:
        code = error.exit_code
        if settings.log_format == "json":
            exit_codes.log_end(str(error), code)
        else:
            exit_codes.complain(str(error))
    except Exception as error:
        if settings.log_format != "json":
            raise  # shown by main()
        code = 1
        exit_codes.log_end(exit_codes.FAULT, code, error)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@cli.command(short_help="Find what keeps an agent from working here.")
@json_option
@click.pass_obj
def check(given: GivenSettings, *, as_json: bool) -> None:
    """Find everything that keeps an agent from working here, and show how to fix it.

    Checks the settings, plugins, engine, state folder, control plane (host name, connection, certificate, key,
    WebSocket), clock, election store and web gateway. Changes nothing, and does not disturb a running agent. Exits with
    1 if a finding is fatal, even if "run" would exit with another code.
    """
    import asyncio

    from streamspace_agent.cli.check import check, of_error
    from streamspace_agent.cli.findings import Finding, Level

    found: list[Finding] = []

    def show(findings: list[Finding]) -> None:
        found.extend(findings)
        for finding in [] if as_json else findings:
            click.echo(logs.redact(f"{finding.level:<8} {finding.subject:<14} {finding.message}"))
            if finding.fix:
                click.echo(f"{'':24}-> {finding.fix}")

    async def everything() -> None:
        settings, environ = given.settings()
        if settings.log_level == "debug":
            logs.configure(settings, {})  # shows the traceback of a plugin that fails
        show([Finding("settings", Level.OK, f"agent {settings.agent_id} for {settings.control_plane_url}")])
        async for findings in check(settings, environ):
            show(findings)

    try:
        asyncio.run(everything())
    except ConfigError as error:
        show(of_error("settings", error))
    fatal = any(finding.level is Level.FATAL for finding in found)
    if as_json:
        print_json({"ok": not fatal, "findings": [asdict(finding) for finding in found]})
    sys.exit(1 if fatal else 0)


@cli.command("plugins", short_help="List the installed plugins and whether they load.")
@json_option
@click.pass_obj
def list_plugins(given: GivenSettings, *, as_json: bool) -> None:
    """List the installed plugins, mark the chosen ones (*), and say why one cannot be loaded.

    Each plugin is loaded to find out; "docker-agent check" says whether the chosen ones work with these settings. Exits
    with 1 if a chosen plugin is not installed or cannot be loaded.
    """
    from streamspace_agent.plugins import survey

    rows, problems = survey(given.chosen())
    if as_json:
        print_json({"plugins": rows, "problems": problems})
    else:
        for row in rows:
            text = "loads" if row["loads"] else row["problem"]
            origin = f"{row['distribution']} {row['version']}"
            click.echo(f"{'*' if row['chosen'] else ' '} {row['kind']:<9} {row['name']:<12} {origin:<36} {text}")
        for problem in problems:
            click.echo(f"docker-agent: {problem}", err=True)
    sys.exit(1 if problems else 0)


@cli.command(short_help="Show this agent's replicas on this host.")
@json_option
@click.pass_obj
def status(given: GivenSettings, *, as_json: bool) -> None:
    """Show every replica of the agent on this host: its role, its connection, its sessions and its problems.

    Needs AGENT_ID and STATE_DIR only. Exits with 0 if one of them is a leader that is connected to the control plane,
    with 1 if none is, and with 4 if no agent runs here.
    """
    from streamspace_agent.cli.status import table
    from streamspace_agent.health.replicas import replicas

    found = list(replicas(given.place().agent_dir))
    if as_json:
        print_json([replica.document or {"instance": replica.name, "error": replica.error} for replica in found])
    elif not found:
        click.echo(f"no agent {given.place().agent_id} runs here (looked in {given.place().agent_dir})", err=True)
    else:
        for line in table(found):
            click.echo(line)
    sys.exit(0 if any(replica.leads for replica in found) else 1 if found else 4)


@cli.command(short_help="Check whether the agent in this container is alive.")
@click.option("--ready", is_flag=True, help="Check whether it is ready to do its work, not only whether it is alive.")
@json_option
@click.pass_obj
def healthcheck(given: GivenSettings, *, ready: bool, as_json: bool) -> None:
    """Check whether the agent in this container is alive, for HEALTHCHECK and probes.

    An agent that cannot reach its control plane is alive: a restart would not help. Exits with 0 if it is alive (with
    --ready: ready), else with 1. Needs AGENT_ID and STATE_DIR only, and asks only replicas in its own PID namespace.
    """
    from streamspace_agent.cli.healthcheck import ask

    healthy, text = ask(given.place().agent_dir, ready=ready)
    if as_json:
        print_json({"healthy": healthy, "message": text})
    else:
        click.echo(text)
    sys.exit(0 if healthy else 1)


@cli.command(short_help="Remove leftovers of crashes.")
@click.option("--dry-run", is_flag=True, help="Only list the leftovers.")
@click.option("--yes", is_flag=True, help="Remove them without asking.")
@json_option
@click.pass_obj
def gc(given: GivenSettings, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove leftovers of crashes: containers, volumes and networks of this agent that belong to no session.

    Lists them and asks before it removes them. Without a terminal, it removes nothing unless --yes is given. Volumes
    contain people's data.
    """
    import asyncio

    from streamspace_agent.cli.gc import line, listing, remove

    settings, environ = given.settings(offline=True)
    found = asyncio.run(listing(settings, environ))
    if not as_json:
        for leftover in found:
            click.echo(line(leftover))
        if not found:
            click.echo("nothing to remove")
    wanted = bool(found) and not dry_run
    if wanted and not yes and not as_json and sys.stdin.isatty():
        yes = click.confirm(f"Remove these {len(found)}?", default=False)
        wanted = yes
    removed = asyncio.run(remove(settings, environ, found)) if wanted and yes else []
    if as_json:
        print_json({"leftovers": [asdict(item) for item in found], "removed": [asdict(item) for item in removed]})
    elif removed:
        click.echo(f"removed {len(removed)}")
    if wanted and not yes:
        fail("without a terminal, gc removes nothing unless --yes is given (--dry-run only lists)", 2)


@cli.command(short_help="Show the version.")
@json_option
def version(*, as_json: bool) -> None:
    """Show the version of the agent and, with --json, of Python."""
    import platform

    if as_json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        click.echo(f"docker-agent {__version__}")


def main() -> None:
    """The entry point. Shows errors as lines, not as tracebacks."""
    # The kernel ignores SIGTERM for a container's first process unless it has a handler, and the agent sets its own
    # only later. 143 is 128 + SIGTERM, as a shell reports it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        cli.main(prog_name="docker-agent", standalone_mode=False)
    except AgentError as error:
        fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception:  # noqa: BLE001 - printed with its traceback, without secrets
        import traceback

        click.echo(logs.redact(traceback.format_exc()), err=True, nl=False)
        fail(exit_codes.FAULT, 1)


def fail(message: str, code: int) -> None:
    exit_codes.complain(message)
    sys.exit(code)
