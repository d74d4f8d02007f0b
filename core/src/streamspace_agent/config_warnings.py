"""Warnings about settings that are valid but probably not meant: shown at the start and by ``check``, never refused."""

import difflib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping

from streamspace_agent.addresses import listening, networks, only_private, shown, source
from streamspace_agent.config import ALIASES, Place, Settings, is_credential, is_secret, variable

SIMILAR = 0.88
"""Similarity (difflib's ratio) from which a variable's name counts as a typing error: one letter in eight or nine."""
SIMILAR_TO_MISSING = 0.8
"""The same for a name that resembles a required one that is missing. SSH_AGENT_PID (0.76) is not AGENT_ID."""
HA_ONLY = ("leader_election_backend", "lock_file_path", "redis_url", "lease_duration")


class RecordingEnviron(dict[str, str]):
    """An environment that records which names a plugin gets: these are the plugin's own settings."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        self.names: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        self.names.add(name)
        return super().get(name, default)


def config_warnings(settings: Settings, environ: Mapping[str, str], plugins: Collection[str] = ()) -> Iterator[str]:
    """Yield one line for each warning. ``plugins`` are the names of the chosen plugins' own variables."""
    if not settings.enable_ha:
        for field in HA_ONLY:
            if field in settings.model_fields_set:
                yield f"{variable(field)} has no effect without ENABLE_HA=true: this agent runs alone"
    if is_credential(path := _empty_key_file(settings, environ)[1], environ):
        yield f"AGENT_API_KEY_FILE: {path} is empty, so there is no API key"
    yield from _open_gateway(settings)
    known = {variable(field) for field in Settings.model_fields} | ALIASES.keys()
    known |= {f"{name}_FILE" for name in known if is_secret(ALIASES.get(name, name.lower()))}
    known |= set(plugins)
    yield from _similar(environ.keys() - known, known, SIMILAR)


def misspelt(model: type[Place], environ: Mapping[str, str], options: Collection[str]) -> Iterator[str]:
    """Yield a line for each variable whose name resembles a required one that is missing.

    ``options`` are the fields that are set on the command line.
    """
    required = {field for field, info in model.model_fields.items() if info.is_required()} - set(options)
    missing = {name for name in map(variable, required) if not environ.get(name, "").strip()}
    unknown = environ.keys() - {variable(field) for field in Settings.model_fields}
    yield from _similar(unknown, missing, SIMILAR_TO_MISSING)


def _similar(names: Iterable[str], known: Iterable[str], cutoff: float) -> Iterator[str]:
    for name in sorted(names):
        if near := difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff):
            yield f"{name} is set, but is no setting: did you mean {near[0]}?"


def empty_key_file(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield an error if the key's file is empty and nothing else authenticates the agent.

    An empty systemd credential is only a warning, because the shipped unit always names one.
    """
    name, path = _empty_key_file(settings, environ)
    if path and not is_credential(path, environ):
        yield f"{name}: {path} is empty: write the agent's key into it, on one line"


def _empty_key_file(settings: Settings, environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable and the empty file that it names; ``("", "")`` if there is none or something else authenticates."""
    if settings.agent_api_key or settings.tls_cert_file or os.access(settings.agent_dir / "api-key", os.R_OK):
        return "", ""
    names = (f"{name}_FILE" for name in ("AGENT_API_KEY", *ALIASES))
    return next(((name, path) for name in names if (path := environ.get(name, "").strip())), ("", ""))


def _open_gateway(settings: Settings) -> Iterator[str]:
    if "web_gateway_allow" in settings.model_fields_set and not settings.web_gateway:
        yield "WEB_GATEWAY_ALLOW has no effect without WEB_GATEWAY: nothing serves web desktops"
    beyond = not only_private(networks(settings.web_gateway_allow))
    for host, port in listening(settings.web_gateway or ""):
        address = source(host)  # None for a host name, which is resolved when it is bound
        if address and (address.is_global or (address.is_unspecified and beyond)):
            yield (
                f"WEB_GATEWAY={shown(host, port)} is open beyond private networks: whoever reaches it from a network "
                "in WEB_GATEWAY_ALLOW can use every web session without a password; bind it to a private address, or "
                "let WEB_GATEWAY_ALLOW name the control plane alone"
            )
