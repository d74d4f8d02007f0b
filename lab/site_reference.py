"""The reference pages' tables, in Markdown, made from the code when the site is built."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING

import click

from lab import site_names as names
from streamspace_agent.cli import options
from streamspace_agent.cli.exit_codes import EXIT_CODES
from streamspace_agent.cli.main import cli
from streamspace_agent.config import Settings, is_secret, variable
from streamspace_agent.errors import COMMAND_CODES
from streamspace_agent.health.metrics import TABLE, full_name
from streamspace_agent.plugins.contract import CONTRACT
from streamspace_runtime_docker.settings import DockerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    columns = head.split(" | ")
    lines = [f"| {head} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)])


def named(kind: str, name: str) -> str:
    return f"`{name}`{{#{names.anchor(kind, name)}}}"


def settings() -> str:
    """A table for each group of settings, in the order of the help."""
    by_field: dict[str, list[str]] = {}
    for option in options.setting_options():
        if isinstance(option, options.SettingOption):
            by_field.setdefault(option.field, []).append(f"`{option.opts[0]}`")
    parts = []
    for title, fields in options.GROUPS.items():
        rows = [
            [named("setting", variable(field)), ", ".join(by_field[field]), description(field), default(field)]
            for field in fields
        ]
        parts.append(f"## {title}\n\n{table('Variable | Option | Meaning | Default', rows)}")
    return "\n\n".join(parts)


def description(field: str) -> str:
    secret = f"; or a file with it: `{variable(field)}_FILE`" if is_secret(field) else ""
    return f"{Settings.model_fields[field].description}{secret}"


def default(field: str) -> str:
    return "required" if Settings.model_fields[field].is_required() else code(options.default_text(field))


def code(text: str) -> str:
    return f"`{text}`" if text not in {"", "-"} else "-"


def docker_settings() -> str:
    rows = [
        [named("setting", variable(field)), info.description or "", code(written(info.default))]
        for field, info in DockerSettings.model_fields.items()
    ]
    return table("Variable | Meaning | Default", rows)


def written(value: object) -> str:
    """A default of the Docker driver as an operator writes it."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        return f"{value:g}s"
    if isinstance(value, int) and value >= 1024**2:
        return f"{value / 1024**3:g}Gi"
    return str(value)


def metrics() -> str:
    rows = [
        [named("metric", full_name(row)), row.kind, ", ".join(f"`{label}`" for label in row.labels) or "-", row.help]
        for row in TABLE
    ]
    return table("Metric | Type | Labels | Meaning", rows)


def exit_codes() -> str:
    return table("Code | Meaning", EXIT_CODES)


def error_codes() -> str:
    return table("Code | Meaning", ([named("error", name), meaning] for name, meaning in COMMAND_CODES))


def command_line() -> str:
    """Each command's own help, as it prints it."""
    top = click.Context(cli, info_name="docker-agent")
    parts = []
    for name, command in cli.commands.items():
        text = command.get_help(click.Context(command, info_name=name, parent=top, max_content_width=100))
        parts.append(f"## {name}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def contract() -> str:
    """Everything that a plugin may import, by module, with its docstring."""
    rows = [[f"`{module}`", ", ".join(f"`{name}`" for name in given)] for module, given in CONTRACT.items()]
    parts = [table("Module | Names", rows)]
    for module, given in CONTRACT.items():
        lines = [f".. automodule:: {module}", "   :no-members:", ""]
        for name in given:
            value = getattr(import_module(module), name)
            kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
            lines += [f".. auto{kind}:: {module}.{name}", *(["   :no-value:"] if kind == "data" else []), ""]
        heading = module.removeprefix("streamspace_agent.")
        parts.append("\n".join([f"## {heading}\n\n```{{eval-rst}}", *lines, "```"]))
    return "\n\n".join(parts)


TABLES: Mapping[str, Callable[[], str]] = {
    "settings": settings,
    "docker-settings": docker_settings,
    "metrics": metrics,
    "exit-codes": exit_codes,
    "error-codes": error_codes,
    "command-line": command_line,
    "contract": contract,
}
"""What a page asks for with the directive ``generated``."""
