"""The command line: ``docker-agent [OPTIONS] [COMMAND]``."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs: a slow start is a slow fail-over

import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from streamspace_agent import __version__, options
from streamspace_agent.config import Settings, load
from streamspace_agent.errors import AgentError

EXIT_CODES = (
    ("0", "all is well; run: stopped on request"),
    ("1", "not well, or an error while running"),
    ("2", "a setting, a plugin or the host is wrong; starting again will not help"),
    ("3", "the control plane refused this agent for good"),
    ("4", "status, healthcheck: no agent runs here"),
)


class Given:
    """The settings' options, wherever on the command line they stood."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def take(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the settings among the parameters, return the rest: the command's own."""
        names = {option.name for option in options.setting_options()}
        self.values |= {name: value for name, value in parameters.items() if name in names and value is not None}
        return {name: value for name, value in parameters.items() if name not in names}

    def settings(self) -> tuple[Settings, dict[str, str]]:
        """The settings, and the environment for plugins' own."""
        plain, environ = options.merge(self.values, os.environ)
        return load(environ, plain), environ


class SettingsCommand(click.Command):
    """A command that takes every setting as an option too; ``docker-agent --help`` shows them, its own does not."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params += options.setting_options(hidden=True)

    def invoke(self, ctx: click.Context) -> Any:
        ctx.params = ctx.ensure_object(Given).take(ctx.params)
        return super().invoke(ctx)


class Group(click.Group):
    command_class = SettingsCommand

    def invoke(self, ctx: click.Context) -> Any:
        ctx.params = ctx.ensure_object(Given).take(ctx.params)
        return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        options.write_settings(formatter, self.params, ctx)
        own = [p.get_help_record(ctx) for p in self.get_params(ctx) if not isinstance(p, options.SettingOption)]
        with formatter.section("Other"):
            formatter.write_dl([record for record in own if record], col_max=28)
        with formatter.section("Exit codes"):
            formatter.write_dl(EXIT_CODES)


@click.group(
    cls=Group,
    params=options.setting_options(),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="docker-agent", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    r"""Run people's desktops on this Docker host for a StreamSpace control plane.

    The agent connects to the control plane, starts, hibernates, wakes and stops sessions as it is told, and carries
    their screens. Without a command it runs.

    \b
    Start an agent:
      docker-agent --agent-id docker-1 --control-plane-url wss://control.example.com \
          --agent-api-key-file /etc/streamspace/key
    Ask what is wrong with this host:
      docker-agent check --agent-id docker-1 --control-plane-url wss://control.example.com

    Every option may be set by the variable in its brackets instead; the option wins. It may stand before or after
    the command.
    """
    if ctx.invoked_subcommand is None:
        execute(ctx.obj)


@cli.command()
@click.pass_obj
def run(given: Given) -> None:
    """Run the agent until it is told to stop (the default)."""
    execute(given)


def execute(given: Given) -> None:
    settings, environ = given.settings()
    import asyncio

    from streamspace_agent import agent

    sys.exit(asyncio.run(agent.run(settings, environ)))


def main() -> None:
    """The entry point. Errors are lines, not tracebacks."""
    try:
        cli.main(prog_name="docker-agent", standalone_mode=False)
    except AgentError as error:
        fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)


def fail(message: str, code: int) -> None:
    from streamspace_agent.logs import redact

    for line in redact(message).splitlines():
        click.echo(f"docker-agent: {line}", err=True)
    sys.exit(code)
