"""The settings: environment variables and command-line options, read and validated together.

A field's variable is its name in capitals, its option is its name with dashes; the option wins. Secrets are never
options, because ``ps`` would show them: they come from the variable, or from the file named by the variable with
``_FILE`` appended. A plugin reads its own settings from the ``environ`` that its hook is given, and its own secrets
with :func:`secret`.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

from streamspace_agent.addresses import base_url, listening, networks
from streamspace_agent.errors import ConfigError
from streamspace_agent.units import parse_duration, parse_quantity

# The control plane marks an agent stale 45 s after its last heartbeat; 5 s allow for delays on the way.
MAX_HEARTBEAT = 40.0

Duration = Annotated[float, BeforeValidator(lambda v: parse_duration(v) if isinstance(v, str) else v)]
"""A setting in seconds, written as ``30s``, ``1m30s``, ``500ms`` or ``45``."""
Bytes = Annotated[int, BeforeValidator(lambda v: int(parse_quantity(v)) if isinstance(v, str) else v)]
"""A setting in bytes, written as ``512Mi``, ``1Gi`` or ``1000000``."""


class Place(BaseModel):
    """The agent's id and state folder: all that ``status`` and ``healthcheck`` need."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False, defer_build=True
    )

    agent_id: str = Field(
        description="Unique id of the agent. All replicas of one agent share it.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{2,99}$",
        examples=["docker-prod-us-east-1"],
    )
    state_dir: Path = Field(
        default=Path("/var/lib/streamspace"),
        description="Folder for the journal, the agent's own API key and the status sockets.",
    )

    @field_validator("agent_id")
    @classmethod
    def _passes_filter(cls, value: str) -> str:
        """The control plane's input filter answers 400 to a query with ``--`` in it, and to a path with ``../``."""
        if "--" in value:
            raise ValueError("must not contain two dashes in a row: the control plane's filter takes them for SQL")
        if value.endswith(".."):
            raise ValueError("must not end with two dots: the control plane's filter would refuse its approval")
        return value

    @field_validator("state_dir", "lock_file_path", check_fields=False)
    @classmethod
    def _absolute(cls, value: Path | str) -> Path | str:
        if not Path(value).is_absolute():
            raise ValueError(f"must be an absolute path, not {value}: a relative one depends on the working directory")
        return value

    @property
    def agent_dir(self) -> Path:
        """The folder for what must outlive the process; the replicas on one host share it."""
        return self.state_dir / self.agent_id


class Settings(Place):
    """The settings of an agent."""

    control_plane_url: str = Field(
        description="URL of the control plane (ws, wss, http or https).", examples=["wss://control.example.com"]
    )
    agent_api_key: SecretStr | None = Field(
        default=None,
        description="The agent's own API key, or a bootstrap key that agents share. API_KEY is read as well.",
    )
    platform: Literal["kubernetes", "docker", "vm", "cloud"] = Field(
        default="docker", description="Platform type that the agent registers with."
    )
    region: str = Field(
        default="default", description="Deployment region that the agent registers with.", min_length=2, max_length=50
    )
    docker_host: str = Field(default="unix:///var/run/docker.sock", description="Address of the Docker Engine.")
    network_name: str = Field(
        default="streamspace", description="Docker network for the sessions.", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
    )
    volume_driver: str = Field(default="local", description="Docker volume driver for the sessions' volumes.")
    max_cpu: float = Field(default=100, gt=0, description="Maximum CPU cores of all sessions together.")
    max_memory: float = Field(default=128, gt=0, description="Maximum memory of all sessions together, in GiB.")
    max_sessions: int = Field(default=100, ge=0, description="Maximum number of sessions at the same time.")
    health_check_interval: Duration = Field(
        default=30.0,
        ge=1,
        description="Longest time between two heartbeats. At most 40s: the control plane gives an agent up after 45s.",
    )
    usage_interval: Duration = Field(
        default=10.0,
        ge=0,
        description="How often the CPU and memory use of running sessions is read and sent. 0 turns this off.",
    )
    enable_ha: bool = Field(default=False, description="High availability: several replicas run, and elect one leader.")
    leader_election_backend: str = Field(
        default="file", description="Election backend: the name of an installed plugin (file, redis, swarm or another)."
    )
    lock_file_path: str = Field(
        default="/var/run/streamspace/agent.lock",
        description="Lock file of the file backend. {agent_id} in it is replaced by the agent's id.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="URL of the Redis server for the redis backend (redis:// or rediss://).",
        examples=["redis://redis:6379/0"],
    )
    lease_duration: Duration | None = Field(
        default=None,
        gt=0,
        description="Length of the lease. The backend's other times scale with it. Unset, the backend chooses.",
    )
    runtime_driver: str = Field(default="docker", description="Runtime driver: the name of an installed plugin.")
    session_cpu: float = Field(
        default=1,
        ge=0,
        description="CPU cores of a session if neither its start command nor its template sets them. 0 means no limit.",
    )
    session_memory: Bytes = Field(
        default=1024**3,
        ge=0,
        description="Memory of a session if neither its start command nor its template sets it. 0 means no limit.",
    )
    hibernate_mode: Literal["stop", "pause"] = Field(
        default="stop",
        description="How sessions hibernate: stop frees memory and keeps the disk; pause keeps both and wakes at once.",
    )
    publish_address: str = Field(
        default="127.0.0.1",
        description="Host address on which session ports are published, if they are published at all.",
    )
    ready_timeout: Duration = Field(
        default=120.0, gt=0, description="How long a started session may take until its desktop answers."
    )
    command_concurrency: int = Field(
        default=100, ge=1, le=1000, description="How many commands may run at the same time."
    )
    drain_timeout: Duration = Field(
        default=30.0, ge=0, description="How long running commands may take to finish after SIGTERM."
    )
    health_address: str | None = Field(
        default=None,
        description="host:port of the HTTP endpoint with /healthz, /readyz, /status and /metrics. "
        "In a range (127.0.0.1:9100-9109), the first free port is used. Unset, there is no endpoint.",
        pattern=r"^\S*:\d{1,5}(-\d{1,5})?$",
    )
    viewer_relay: Literal["deployed", "repaired"] = Field(
        default="deployed",
        description="How the control plane relays screens and web desktops. deployed avoids whatever would crash "
        "a deployed control plane; repaired, for one without those faults, tells viewers why they are disconnected "
        "and passes answers on unchanged.",
    )
    web_gateway: str | None = Field(
        default=None,
        description="Addresses, separated by commas, at which the leader serves web desktops. Unset, it serves none.",
        examples=["10.0.0.5:3000,10.0.0.5:8080"],
    )
    web_gateway_allow: str = Field(
        default="private",
        description="Networks, separated by commas, that may use WEB_GATEWAY. private: all private and loopback ones.",
        examples=["10.0.0.0/24,private"],
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level of messages that are logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of the log: text for people, json for programs."
    )
    tls_ca_file: Path | None = Field(
        default=None,
        description="CA bundle to verify the control plane's certificate with. Unset, the system's CAs are used.",
    )
    tls_cert_file: Path | None = Field(
        default=None, description="Client certificate for mutual TLS. Its CN must be the agent's id."
    )
    tls_key_file: Path | None = Field(default=None, description="Private key of TLS_CERT_FILE.")

    @field_validator("log_level", "log_format", "hibernate_mode", "platform", "viewer_relay", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    _url = field_validator("control_plane_url")(base_url)

    @field_validator("health_check_interval")
    @classmethod
    def _heartbeat(cls, value: float) -> float:
        if value > MAX_HEARTBEAT:
            after = "the control plane gives an agent up 45s after its last heartbeat"
            raise ValueError(f"must be {MAX_HEARTBEAT:.0f}s or less: {after}")
        return value

    @field_validator("agent_api_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("is not one line of visible ASCII characters: is the right file named?")
        return value

    @field_validator("health_address")
    @classmethod
    def _port(cls, value: str | None) -> str | None:
        ports = [int(port) for port in value.rpartition(":")[2].split("-")] if value is not None else []
        if any(port > 65535 for port in ports):
            raise ValueError("its port must be a number up to 65535")
        if ports != sorted(ports):
            raise ValueError("its range of ports must begin with the lower one")
        return value

    @field_validator("web_gateway")
    @classmethod
    def _addresses(cls, value: str | None) -> str | None:
        return value if value is None or listening(value) else None

    @field_validator("web_gateway_allow")
    @classmethod
    def _networks(cls, value: str) -> str:
        networks(value)
        return value

    @field_validator("tls_ca_file", "tls_cert_file", "tls_key_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"no such file: {value}")
        return value

    @property
    def http_url(self) -> str:
        return re.sub(r"^ws", "http", self.control_plane_url)

    @property
    def ws_url(self) -> str:
        return re.sub(r"^http", "ws", self.control_plane_url)

    @property
    def lock_file(self) -> Path:
        return Path(self.lock_file_path.replace("{agent_id}", self.agent_id))


ALIASES: Mapping[str, str] = {"API_KEY": "agent_api_key"}
"""Other names of a variable, and the field that it sets."""


def variable(field: str) -> str:
    return field.upper()


def is_secret(field: str) -> bool:
    return "SecretStr" in str(Settings.model_fields[field].annotation)


UNITS: Mapping[str, str] = {"max_memory": "GiB", "max_cpu": "cores", "session_cpu": "cores"}
"""The unit of plain numbers that people may write with a unit."""
MAX_QUOTED = 60
"""How many characters of a wrong value a message shows."""

Model = TypeVar("Model", bound=Place)


def load(environ: Mapping[str, str], options: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from options, variables and files. An empty value counts as not set.

    Raises :exc:`ConfigError` with everything that is wrong, one line for each variable.
    """
    return _load(Settings, environ, options)


def load_place(environ: Mapping[str, str], options: Mapping[str, Any] | None = None) -> Place:
    """Read AGENT_ID and STATE_DIR alone; the other variables may be wrong or missing."""
    return _load(Place, environ, {name: value for name, value in (options or {}).items() if name in Place.model_fields})


def _load(model: type[Model], environ: Mapping[str, str], options: Mapping[str, Any] | None) -> Model:
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, field in (*((variable(f), f) for f in model.model_fields), *ALIASES.items()):
        if field in model.model_fields and not values.get(field):
            values[field] = _value(name, environ, problems, secret=is_secret(field))
    values |= {field: value for field, value in (options or {}).items() if value is not None}
    values = {field: value for field, value in values.items() if value not in {None, ""}}
    settings: Model | None = None
    try:
        settings = model(**values)
    except ValidationError as error:
        problems += explain(error, model)
    if ("tls_cert_file" in values) != ("tls_key_file" in values):
        problems.append("TLS_CERT_FILE and TLS_KEY_FILE belong together: set both or neither")
    if problems or settings is None:
        raise ConfigError(problems)
    return settings


def secret(name: str, environ: Mapping[str, str]) -> str | None:
    """Read a plugin's own secret: from the variable ``name``, or from the file that ``name`` with ``_FILE`` names.

    ``environ`` is what the hook was given. Returns None if neither is set or the file is empty; surrounding white space
    is removed. Raises ConfigError if the file cannot be read or both are set. Never print a secret; pass it to
    :func:`streamspace_agent.logs.hide`, so that no log and no command shows it.
    """
    problems: list[str] = []
    value = _value(name, environ, problems, secret=True)
    if problems:
        raise ConfigError(problems)
    return value


def _value(name: str, environ: Mapping[str, str], problems: list[str], *, secret: bool) -> str | None:
    value = environ.get(name, "").strip()
    if _unfilled(value, environ):
        return None
    path = environ.get(f"{name}_FILE", "").strip() if secret else ""
    if not path:
        return value or None
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        fix = f", give it to uid {os.geteuid()}, which the agent has" if isinstance(error, PermissionError) else ""
        problems.append(f"{name}_FILE: cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}{fix}")
        return None
    if value and text:  # an empty file counts as not set: systemd provides one for a credential that does not exist
        problems.append(f"{name} and {name}_FILE are both set: keep one of them")
    return value or text or None


def _unfilled(value: str, environ: Mapping[str, str]) -> bool:
    """Whether the value is the path of an empty systemd credential, which counts as not set."""
    try:
        return is_credential(value, environ) and not Path(value).read_bytes().strip()
    except OSError:
        return False


def is_credential(path: str, environ: Mapping[str, str]) -> bool:
    """Whether the file is a credential that systemd provides."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    return bool(path and folder) and Path(path).parent == Path(folder)


def explain(error: ValidationError, model: type[BaseModel]) -> Iterable[str]:
    """Say what is wrong with a model of settings, one line for each variable. Quotes wrong values but no secrets."""
    for item in error.errors(include_url=False):
        field, kind = str(item["loc"][0]) if item["loc"] else "settings", item["type"]
        name, info = variable(field), model.model_fields.get(field)
        example = f", for example {name}={info.examples[0]}" if info and info.examples else ""
        hidden = info and "SecretStr" in str(info.annotation)
        written = "" if hidden else f"={' '.join(str(item['input']).split())[:MAX_QUOTED]}"
        if kind == "missing":
            meaning = (info.description or "").partition(". ")[0].removesuffix(".") if info else ""
            yield f"{name} is not set: {meaning[:1].lower()}{meaning[1:]}{example}"
        elif kind == "string_pattern_mismatch" and field == "agent_id":
            allowed = "3 to 100 letters, digits, dots, dashes or underscores"
            yield f"{name} must be {allowed} and start with a letter or digit{example}"
        elif kind == "string_pattern_mismatch" and field == "health_address":
            examples = f"{name}=127.0.0.1:8080, or 127.0.0.1:9100-9109 for replicas"
            yield f"{name}{written} is not host:port: write for example {examples}"
        elif kind.startswith("bool_"):
            yield f"{name}{written} is not a boolean: write true or false"
        elif kind.startswith(("int_", "float_")) or kind == "finite_number":
            number = "whole number" if kind.startswith("int_") else "number"
            unit = f", in {UNITS[field]} and without a unit" if field in UNITS else ""
            sample = f"{info.default:g}" if info and isinstance(info.default, int | float) else "8"
            yield f"{name}{written} is not a {number}: write for example {sample}{unit}"
        elif kind == "value_error":  # our own words; a URL may contain a password and is not quoted
            said = re.sub(r"^Value error, ", "", item["msg"])
            if quoted := re.fullmatch(r"'(.*)' (is not .*)", said):
                yield f"{name}={quoted[1]} {quoted[2]}"
            else:
                yield f"{name}{' ' if said.startswith(('must ', 'is ')) else ': '}{said}"
        else:
            said = re.sub(r"^(Input|String) should ", "must ", item["msg"])
            yield f"{name}{written}{' ' if said.startswith('must ') else ': '}{said}"
