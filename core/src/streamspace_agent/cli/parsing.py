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
    """The settings that the given options and the environment make."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

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
            problems = [*error.problems, *misspelt(Settings, environ, plain), *self._missing_plugins()]
            raise ConfigError(problems) from None
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


class SettingsCommand(click.Command):
    """A command that accepts every setting as an option. ``docker-agent --help`` lists them; its own help does not."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.epilog = SETTINGS_NOTE
        self.params += _HIDDEN


class SettingsGroup(click.Group):
    command_class = SettingsCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        settings = [option for option in self.params if isinstance(option, options.SettingOption)]
        sections: dict[str, list[click.Parameter]] = {
            title: [option for option in settings if option.field in fields] for title, fields in options.GROUPS.items()
        }
        sections["Other"] = [each for each in self.get_params(ctx) if not isinstance(each, options.SettingOption)]
        for title, listed in sections.items():
            with formatter.section(title):
                formatter.write_dl([row for each in listed if (row := each.get_help_record(ctx))], col_max=28)
        with formatter.section("Exit codes"):
            formatter.write_dl(exit_codes.EXIT_CODES)
