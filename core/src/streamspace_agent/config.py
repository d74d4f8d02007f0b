"""The settings: environment variables, each also a command-line option, read and judged in one go.

A field's variable is its name in capitals, its option the name with dashes. A command-line option beats the variable.
Secrets are never options (``ps`` would show them): they come from the variable or from the file that the variable
with ``_FILE`` behind it names. A plugin reads settings of its own from the ``environ`` that its hook is given, secrets
with :func:`secret`.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo

from streamspace_agent.addresses import base_url, listening, networks
from streamspace_agent.errors import ConfigError
from streamspace_agent.units import parse_duration, parse_quantity

# The control plane calls an agent stale 45 s after its last heartbeat (protocol, section 2); 5 s are for the way.
MAX_HEARTBEAT = 40.0

Duration = Annotated[float, BeforeValidator(lambda v: parse_duration(v) if isinstance(v, str) else v)]
"""Seconds; written ``30s``, ``1m30s``, ``500ms`` or ``45``."""
Bytes = Annotated[int, BeforeValidator(lambda v: int(parse_quantity(v)) if isinstance(v, str) else v)]
"""Bytes; written ``512Mi``, ``1Gi`` or ``1000000``."""


class Place(BaseModel):
    """Which agent, and where it keeps its things: all that commands beside a running agent need."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    agent_id: str = Field(
        description="Unique agent identifier; replicas of one agent share it",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{2,99}$",
        examples=["docker-prod-us-east-1"],
    )
    state_dir: Path = Field(
        default=Path("/var/lib/streamspace"),
        description="Folder of the journal, the agent's own key and status sockets",
    )

    @field_validator("agent_id")
    @classmethod
    def _passes_filter(cls, value: str) -> str:
        """The control plane's input filter answers 400 to a query with ``--`` in it, and to a path with ``../``."""
        if "--" in value:
            raise ValueError(
                "must not hold two dashes in a row: the control plane's filter takes them for SQL and refuses the agent"
            )
        if value.endswith(".."):
            raise ValueError(
                "must not end with two dots: the control plane's filter takes the agent's address for a way out of a folder, so that nobody could approve it"
            )
        return value

    @field_validator("state_dir", "lock_file_path", check_fields=False)
    @classmethod
    def _absolute(cls, value: Path | str) -> Path | str:
        if not Path(value).is_absolute():
            raise ValueError(
                f"must be an absolute path, not {value}: another folder to start in would be another place"
            )
        return value

    @property
    def agent_dir(self) -> Path:
        """Where this agent id keeps what must outlive a process; shared by its replicas on one host."""
        return self.state_dir / self.agent_id


class Settings(Place):
    """Everything an operator can set. Defaults are those of the deployment documentation."""

    control_plane_url: str = Field(
        description="Control plane URL (ws, wss, http or https)", examples=["wss://control.example.com"]
    )
    agent_api_key: SecretStr | None = Field(
        default=None, description="The agent's API key or a shared bootstrap key; also read from API_KEY"
    )
    platform: Literal["kubernetes", "docker", "vm", "cloud"] = Field(default="docker", description="Platform type")
    region: str = Field(default="default", description="Deployment region", min_length=2, max_length=50)
    docker_host: str = Field(default="unix:///var/run/docker.sock", description="Docker daemon socket")
    network_name: str = Field(
        default="streamspace", description="Docker network of the sessions", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
    )
    volume_driver: str = Field(default="local", description="Docker volume driver of the sessions' volumes")
    max_cpu: float = Field(default=100, gt=0, description="Maximum CPU cores for all sessions together")
    max_memory: float = Field(default=128, gt=0, description="Maximum memory for all sessions together, in GB (GiB)")
    max_sessions: int = Field(default=100, ge=0, description="Maximum concurrent sessions")
    health_check_interval: Duration = Field(
        default=30.0,
        ge=1,
        description="Longest time between two heartbeats, at most 40s since the control plane gives up at 45s",
    )
    usage_interval: Duration = Field(
        default=10.0,
        ge=0,
        description="How often running sessions' CPU and memory are read, and told with a heartbeat of its own, 0 for never",
    )
    enable_ha: bool = Field(default=False, description="Enable HA mode: replicas elect one leader")
    leader_election_backend: str = Field(
        default="file", description="Election backend: the name of an installed plugin (file, redis, swarm, ...)"
    )
    lock_file_path: str = Field(
        default="/var/run/streamspace/agent.lock",
        description="Lock file of the file backend; {agent_id} in it is replaced",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis URL of the redis backend, redis:// or rediss://",
        examples=["redis://redis:6379/0"],
    )
    lease_duration: Duration | None = Field(
        default=None, gt=0, description="Length of a lease; scales the backend's other timings with it"
    )
    runtime_driver: str = Field(default="docker", description="Runtime driver: the name of an installed plugin")
    session_cpu: float = Field(
        default=1,
        ge=0,
        description="CPU cores of a session for which neither its start nor its template names any; 0: no limit",
    )
    session_memory: Bytes = Field(
        default=1024**3,
        ge=0,
        description="Memory of a session for which neither its start nor its template names any; 0: no limit",
    )
    hibernate_mode: Literal["stop", "pause"] = Field(
        default="stop",
        description="stop keeps a session's disk and frees its memory; pause keeps memory, wakes at once",
    )
    publish_address: str = Field(
        default="127.0.0.1", description="Host address on which sessions' ports are published, where they are published"
    )
    ready_timeout: Duration = Field(
        default=120.0, gt=0, description="How long a started session may take until its desktop answers"
    )
    command_concurrency: int = Field(default=100, ge=1, le=1000, description="Commands that run at the same time")
    drain_timeout: Duration = Field(
        default=30.0, ge=0, description="How long running commands may finish after SIGTERM"
    )
    health_address: str | None = Field(
        default=None,
        description="host:port of the HTTP endpoint with /healthz, /readyz, /status and /metrics; unset for none; "
        "of a range (127.0.0.1:9100-9109) the first free port",
        pattern=r"^\S*:\d{1,5}(-\d{1,5})?$",
    )
    viewer_relay: Literal["deployed", "repaired"] = Field(
        default="deployed",
        description="How the control plane passes screens and web desktops on: deployed is careful never to crash it; "
        "repaired tells viewers why they are closed and passes answers on as they are, for a control plane without those faults",
    )
    web_gateway: str | None = Field(
        default=None,
        description="Addresses, separated by commas, at which the leader answers for the sessions' web desktops; unset for none",
        examples=["10.0.0.5:3000,10.0.0.5:8080"],
    )
    web_gateway_allow: str = Field(
        default="private",
        description="Networks, separated by commas, that may use WEB_GATEWAY; private stands for all private and loopback ones",
        examples=["10.0.0.0/24,private"],
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Log level")
    log_format: Literal["text", "json"] = Field(default="text", description="Log format")
    tls_ca_file: Path | None = Field(
        default=None, description="CA bundle that the control plane's certificate is checked with"
    )
    tls_cert_file: Path | None = Field(
        default=None, description="Client certificate for mutual TLS; its CN is the agent id"
    )
    tls_key_file: Path | None = Field(default=None, description="Key of TLS_CERT_FILE")

    @field_validator("log_level", "log_format", "hibernate_mode", "platform", "viewer_relay", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("control_plane_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return base_url(value)

    @field_validator("health_check_interval")
    @classmethod
    def _heartbeat(cls, value: float) -> float:
        if value > MAX_HEARTBEAT:
            raise ValueError(
                f"must be {MAX_HEARTBEAT:.0f}s or less: the control plane gives an agent up 45s after its last heartbeat"
            )
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
"""Other names under which a variable is taken."""


def variable(field: str) -> str:
    return field.upper()


def is_secret(field: str) -> bool:
    return "SecretStr" in str(Settings.model_fields[field].annotation)


UNITS: Mapping[str, str] = {"max_memory": "GiB", "max_cpu": "cores", "session_cpu": "cores"}
"""What plain numbers count that people like to write a unit behind."""
MAX_QUOTED = 60
"""Characters of a wrong value that a message shows."""

Model = TypeVar("Model", bound=Place)


def load(environ: Mapping[str, str], options: Mapping[str, Any] | None = None) -> Settings:
    """The settings from options, variables and files; an empty value counts as not set.

    Raises :exc:`ConfigError` that lists everything wrong at once, a line for each variable.
    """
    return _load(Settings, environ, options)


def load_place(environ: Mapping[str, str], options: Mapping[str, Any] | None = None) -> Place:
    """The same for AGENT_ID and STATE_DIR alone, whatever the other variables are."""
    return _load(Place, environ, {name: value for name, value in (options or {}).items() if name in Place.model_fields})


def _load(model: type[Model], environ: Mapping[str, str], options: Mapping[str, Any] | None) -> Model:
    problems: list[str] = []
    values: dict[str, Any] = {}
    names = [*((variable(f), f) for f in model.model_fields), *ALIASES.items()]
    for name, field in names:
        if (
            field in model.model_fields
            and field not in values
            and (value := _value(name, environ, problems, secret=is_secret(field)))
        ):
            values[field] = value
    for field, value in (options or {}).items():
        if value == "":
            values.pop(field, None)
        elif value is not None:
            values[field] = value
    settings: Model | None = None
    try:
        settings = model(**values)
    except ValidationError as error:
        problems += explain(error, model)
    problems += _cross_checks(values)
    if problems or settings is None:
        raise ConfigError(problems)
    return settings


def secret(name: str, environ: Mapping[str, str]) -> str | None:
    """A secret of a plugin's own: the variable ``name``, or the text of the file that the variable with ``_FILE`` behind it names.

    For ``environ`` as a hook is given it. None where neither is set or the file is empty; white space around it is left out.
    Raises ConfigError where the file cannot be read, and where both are set. Never echo it; hand it to
    :func:`streamspace_agent.logs.hide`, and no log and no command shows it.
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
    if value and text:  # an empty file counts as not set: systemd hands one over for a credential that is not there
        problems.append(f"{name} and {name}_FILE are both set: keep one of them")
    return value or text or None


def _unfilled(value: str, environ: Mapping[str, str]) -> bool:
    """Is it the path of a credential that systemd hands over, and nobody has filled? It is blank then, and counts as not set."""
    folder, path = environ.get("CREDENTIALS_DIRECTORY", ""), Path(value)
    try:
        return bool(folder) and path.parent == Path(folder) and not path.read_bytes().strip()
    except OSError:
        return False


def explain(error: ValidationError, model: type[BaseModel]) -> Iterable[str]:
    """What is wrong with a model of settings, a line for each variable. Quotes what was written, but never a secret."""
    for item in error.errors(include_url=False):
        field, kind = str(item["loc"][0]) if item["loc"] else "settings", item["type"]
        name, info = variable(field), model.model_fields.get(field)
        example = f", for example {name}={info.examples[0]}" if info and info.examples else ""
        written = (
            ""
            if info and "SecretStr" in str(info.annotation)
            else f"={' '.join(str(item['input']).split())[:MAX_QUOTED]}"
        )
        if kind == "missing":
            meaning = info.description or "" if info else ""
            yield f"{name} is not set: {meaning[:1].lower()}{meaning[1:]}{example}"
        elif kind == "string_pattern_mismatch" and field == "agent_id":
            yield f"{name} must be 3 to 100 letters, digits, dots, dashes or underscores and start with a letter or digit{example}"
        elif kind == "string_pattern_mismatch" and field == "health_address":
            yield f"{name}{written} is not host:port: write for example {name}=127.0.0.1:8080, or 127.0.0.1:9100-9109 for replicas"
        elif kind.startswith("bool_"):
            yield f"{name}{written} is not a boolean: write true or false"
        elif kind.startswith(("int_", "float_")) or kind == "finite_number":
            number = "whole number" if kind.startswith("int_") else "number"
            unit = f", in {UNITS[field]} and without a unit" if field in UNITS else ""
            yield f"{name}{written} is not a {number}: write for example {_example(info)}{unit}"
        elif kind == "value_error":  # our own words; an URL may hold a password and is not quoted
            said = re.sub(r"^Value error, ", "", item["msg"])
            if quoted := re.fullmatch(r"'(.*)' (is not .*)", said):
                yield f"{name}={quoted[1]} {quoted[2]}"
            else:
                yield f"{name}{' ' if said.startswith(('must ', 'is ')) else ': '}{said}"
        else:
            said = re.sub(r"^(Input|String) should ", "must ", item["msg"])
            yield f"{name}{written}{' ' if said.startswith('must ') else ': '}{said}"


def _example(info: FieldInfo | None) -> str:
    return f"{info.default:g}" if info and isinstance(info.default, int | float) else "8"


def _cross_checks(values: Mapping[str, Any]) -> Iterable[str]:
    if bool(values.get("tls_cert_file")) != bool(values.get("tls_key_file")):
        yield "TLS_CERT_FILE and TLS_KEY_FILE belong together: set both or neither"
