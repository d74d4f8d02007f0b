"""Commands that accept every setting as an option, before or after the command's name, and the settings they read."""

# ruff: noqa: PLC0415 - plugins are looked up only when a command needs them: a slow start is a slow fail-over

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from streamspace_agent import logs
from streamspace_agent.cli import exit_codes, options
from streamspace_agent.config import Place, Settings, load, load_place
from streamspace_agent.config_warnings import empty_key_file, misspelt
from streamspace_agent.errors import AgentError, ConfigError

if TYPE_CHECKING:
    from streamspace_agent.plugins import Kind


class GivenSettings:
    """The options of settings that were given, whether before or after the command."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def take(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the parameters that are settings, and return the command's own."""
        self.values |= {name: value for name, value in parameters.items() if name in _NAMES and value is not None}
        return {name: value for name, value in parameters.items() if name not in _NAMES}

    def settings(self, *, offline: bool = False) -> tuple[Settings, dict[str, str]]:
        """Load the settings, and the environment for the plugins' own. ``offline``: no control plane is needed.

        Raises ConfigError with everything that is wrong, including plugins that are not installed.
        """
        plain, environ = options.merge(self.values, os.environ)
        if offline:
            plain["control_plane_url"] = "ws://none.invalid"
        try:
            settings = load(environ, plain)
        except ConfigError as error:
            raise ConfigError(
                [*error.problems, *misspelt(Settings, environ, plain), *self._missing_plugins()]
            ) from None
        if not offline and (problems := [*empty_key_file(settings, environ)]):
            raise ConfigError(problems)
        logs.hide_settings(settings)
        return settings, environ

    def chosen(self) -> dict["Kind", str]:
        """The chosen plugins' names, even if the settings are wrong."""
        from streamspace_agent.plugins import ELECTION, GATEWAY, RUNTIME

        chosen = {RUNTIME: self.choice(RUNTIME.variable)}
        if self.choice("ENABLE_HA").lower() in {"1", "true", "yes", "on", "t", "y"}:
            chosen[ELECTION] = self.choice(ELECTION.variable)
        if self.choice(GATEWAY.variable) not in {"", options.default_text("web_gateway")}:
            chosen[GATEWAY] = GATEWAY.only
        return chosen

    def _missing_plugins(self) -> Iterator[str]:
        from streamspace_agent.plugins import choose

        for kind, name in self.chosen().items():
            try:
                choose(kind, name)
            except AgentError as error:
                yield str(error)

    def choice(self, name: str) -> str:
        """A setting's value as given, even if other settings are wrong."""
        field = name.lower()
        given = self.values.get(field)
        return str((os.environ.get(name, "") if given is None else given) or options.default_text(field)).strip()

    def place(self) -> Place:
        plain, environ = options.merge(self.values, os.environ)
        try:
            return load_place(environ, plain)
        except ConfigError as error:
            raise ConfigError([*error.problems, *misspelt(Place, environ, plain)]) from None


SETTINGS_NOTE = 'Settings are options as well: see "docker-agent --help".'
_HIDDEN = options.setting_options(hidden=True)
_NAMES = {option.name for option in _HIDDEN}


class SettingsCommand(click.Command):
    """A command that accepts every setting as an option. ``docker-agent --help`` lists them; its own help does not."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.epilog = SETTINGS_NOTE
        self.params += _HIDDEN

    def invoke(self, ctx: click.Context) -> Any:
        ctx.params = ctx.ensure_object(GivenSettings).take(ctx.params)
        return super().invoke(ctx)


class SettingsGroup(click.Group):
    command_class = SettingsCommand

    def invoke(self, ctx: click.Context) -> Any:
        ctx.params = ctx.ensure_object(GivenSettings).take(ctx.params)
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
            formatter.write_dl(exit_codes.EXIT_CODES)
