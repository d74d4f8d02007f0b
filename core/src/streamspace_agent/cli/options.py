"""The options: one for every setting, made from the Settings model and grouped for ``--help``."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import click
from pydantic import BeforeValidator

from streamspace_agent.config import ALIASES, Settings, is_secret, variable
from streamspace_agent.errors import ConfigError

GROUPS: Mapping[str, tuple[str, ...]] = {
    title: tuple(fields.split())
    for title, fields in {
        "Who and where": "agent_id control_plane_url agent_api_key platform region state_dir",
        "TLS": "tls_ca_file tls_cert_file tls_key_file",
        "High availability": """
            enable_ha leader_election_backend lock_file_path redis_url lease_duration drain_timeout""",
        "Sessions": """
            runtime_driver docker_host network_name volume_driver publish_address max_sessions max_cpu max_memory
            session_cpu session_memory command_concurrency ready_timeout hibernate_mode viewer_relay""",
        "Web desktops": "web_gateway web_gateway_allow",
        "Monitoring": "health_check_interval usage_interval health_address log_level log_format",
    }.items()
}
"""The groups of settings in ``--help`` and in the documents, in this order."""
_SECRET_FILES = {f"{field}_file": field for field in Settings.model_fields if is_secret(field)}


class SettingOption(click.Option):
    """The option of a setting, or of the file that contains a secret setting."""

    def __init__(self, field: str, declaration: str, **attributes: Any) -> None:
        self.field = field
        super().__init__([declaration], default=None, expose_value=False, callback=_keep, **attributes)


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None:
        given(context)[str(option.name)] = value


def given(context: click.Context) -> dict[str, Any]:
    """The options of settings that were given, whether before or after the command."""
    values: dict[str, Any] = context.meta.setdefault("streamspace_agent.settings", {})
    return values


def setting_options(*, hidden: bool = False) -> list[click.Option]:
    """Make the options of all settings, in the order of the groups. A secret has the option ``--NAME-file`` only."""
    made = [option for field in grouped() for option in _options_of(field)]
    for option in made:
        option.hidden = hidden
    return made


def grouped() -> Iterable[str]:
    """The names of all settings in the order of the groups."""
    return (field for fields in GROUPS.values() for field in fields)


def _options_of(field: str) -> Iterable[click.Option]:
    dashed = field.replace("_", "-")
    text = _describe(field)
    if is_secret(field):
        text = f"File that contains {variable(field)}. {text}"
        yield SettingOption(field, f"--{dashed}-file", metavar="FILE", help=text)
        if field == "redis_url":
            yield SettingOption(field, f"--{dashed}", metavar="URL", help="The URL, if without password.")
    elif Settings.model_fields[field].annotation is bool:
        yield SettingOption(field, f"--{dashed}/--no-{dashed}", help=text)
    else:
        yield SettingOption(field, f"--{dashed}", metavar=_metavar(field), help=text)


def _describe(field: str) -> str:
    """The help text of a setting: ``DESCRIPTION  [VARIABLE, default: X]``."""
    info = Settings.model_fields[field]
    names = variable(field) + (f" or {variable(field)}_FILE" if is_secret(field) else "")
    return f"{info.description}  [{names}{', required' if info.is_required() else f', default: {default_text(field)}'}]"


def default_text(field: str) -> str:
    """The default as an operator writes it; ``-`` if there is none."""
    default = Settings.model_fields[field].default
    if default is None:
        return "-"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}s"
    if _is_bytes(field):
        return f"{default / 1024**3:g}Gi"
    return str(default)


def _is_bytes(field: str) -> bool:
    info = Settings.model_fields[field]
    return info.annotation is int and any(isinstance(entry, BeforeValidator) for entry in info.metadata)


def _metavar(field: str) -> str:
    info = Settings.model_fields[field]
    if _is_bytes(field):
        return "SIZE"
    choices = getattr(info.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    text = f"{info.annotation} {info.metadata}"
    kinds = {"BeforeValidator": "DURATION", "Path": "PATH", "float": "NUMBER", "int": "NUMBER"}
    named = {
        "control_plane_url": "URL",
        "health_address": "HOST:PORT",
        "web_gateway": "ADDRESSES",
        "web_gateway_allow": "NETWORKS",
        "lock_file_path": "PATH",
    }
    return next((metavar for kind, metavar in kinds.items() if kind in text), named.get(field, "TEXT"))


def merge(given: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Split the given options into plain ones, and an environment that the secret ones were added to.

    Both are for :func:`streamspace_agent.config.load`. Raises ConfigError for a password on the command line.
    """
    options: dict[str, Any] = {}
    merged = dict(environ)
    for name, value in given.items():
        if value is None:
            continue
        field = _SECRET_FILES.get(name, name)
        if not is_secret(field):
            options[field] = value
            continue
        if field == name and _has_password(value):
            option = f"--{name.replace('_', '-')}"
            problem = f"{option} contains a password, which ps shows to every user of this host"
            fix = f"write the URL into a file and name it with {option}-file or {variable(field)}_FILE"
            raise ConfigError([f"{problem}: {fix}"])
        for other in (variable(field), *(alias for alias, of in ALIASES.items() if of == field)):
            merged.pop(other, None)
            merged.pop(f"{other}_FILE", None)
        merged[variable(name)] = value
    return options, merged


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return True
    return bool(parts.password) or "password=" in parts.query.lower()
