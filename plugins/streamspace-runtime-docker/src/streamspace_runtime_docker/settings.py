"""The driver's own environment variables, read and checked together like the core's."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from streamspace_agent.config import Bytes, Duration, Settings, explain
from streamspace_agent.errors import ConfigError
from streamspace_runtime_docker.images.references import pattern

# What the init systems of the usual desktop images need while they run as root, before they switch to the user: to own
# the home and runtime folders (CHOWN, DAC_OVERRIDE, FOWNER, FSETID), to become the user (SETUID, SETGID), to stop what
# they started as another user (KILL) and to serve a port below 1024 (NET_BIND_SERVICE). Docker's default also has
# NET_RAW (forged packets), MKNOD, SETFCAP, SETPCAP, SYS_CHROOT and AUDIT_WRITE.
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")


class DockerSettings(BaseModel):
    """A field's variable is its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    engine_concurrency: int = Field(
        default=16, ge=2, le=256, description="Engine calls that run at the same time; more wait for a free thread"
    )
    start_concurrency: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Containers that are started at the same time; 0: one a core of the engine's host",
    )
    pull_concurrency: int = Field(default=8, ge=1, le=64, description="Images that are pulled at the same time")
    pull_stall_timeout: Duration = Field(
        default=120.0,
        gt=0,
        description="How long a pull may stand still while it waits for nothing of the engine's own; "
        "the whole pull may take any time",
    )
    stop_timeout: Duration = Field(
        default=10.0, ge=0, description="How long a session may take to end after its stop signal, before it is killed"
    )
    session_pids_limit: int = Field(
        default=2048, ge=16, description="Processes and threads in a session, at most; a browser alone uses hundreds"
    )
    session_shm_size: Bytes = Field(
        default=1024**3,
        ge=1024**2,
        description="Size of a session's /dev/shm, used only as far as written and counted as the session's memory",
    )
    session_capabilities: tuple[str, ...] = Field(
        default=CAPABILITIES,
        description="Linux capabilities that a session keeps, separated by commas; `none` for none",
    )
    publish_ports: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Publish sessions' ports on PUBLISH_ADDRESS: "
        "auto only where the agent cannot reach containers directly",
    )
    allowed_images: tuple[str, ...] = Field(
        default=(),
        description="Registries and images that sessions may use, separated by commas: "
        "lscr.io, ghcr.io/team/*, docker.io/library/ubuntu; unset for all",
    )
    leftover_grace: Duration = Field(
        default=60.0, ge=0, description="Age from which something half made under our labels counts as left over"
    )

    @field_validator("publish_ports", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("allowed_images", mode="before")
    @classmethod
    def _patterns(cls, value: Any) -> Any:
        return tuple(pattern(p.strip()) for p in value.split(",") if p.strip()) if isinstance(value, str) else value

    @field_validator("session_capabilities", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        names = tuple(dict.fromkeys(n.strip().upper().removeprefix("CAP_") for n in value.split(",") if n.strip()))
        if names == ("NONE",):
            return ()
        wrong = [n for n in names if not re.fullmatch(r"[A-Z][A-Z_]+", n) or n == "NONE"]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} is no capability: write names such as CHOWN,SETUID, or none")
        return names


def load(settings: Settings, environ: Mapping[str, str]) -> DockerSettings:
    """Read the settings; an empty variable counts as unset. Raises ConfigError with a line for each wrong one.

    Checks DOCKER_HOST, too.
    """
    values = {f: v for f in DockerSettings.model_fields if (v := environ.get(f.upper(), "").strip())}
    problems = list(_docker_host(settings.docker_host))
    try:
        own = DockerSettings(**values)  # type: ignore[arg-type]  # texts, which the validators turn into what is due
        if not problems:
            return own
    except ValidationError as error:
        problems += explain(error, DockerSettings)
    raise ConfigError(problems)


def _docker_host(host: str) -> list[str]:
    scheme, _, rest = host.partition("://")
    if scheme in {"unix", "tcp"} and rest.strip("/"):
        return []
    if scheme == "ssh":
        fix = "run the agent on that host, or use tcp:// with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
        return [f"DOCKER_HOST: ssh:// is not supported: {fix}"]
    return ["DOCKER_HOST: must be unix:///path/to/docker.sock or tcp://host:port"]
