"""From a ``start_session`` payload to a checked :class:`~streamspace_agent.runtime.SessionSpec`.

Payloads are read as leniently as the control plane writes them (unknown keys, numbers as strings, a manifest as an
object, JSON text or base64 of it). Invalid values are refused with an error code and a message.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, PlainValidator, ValidationError

from streamspace_agent.commands import Command, names
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import Mount, Port, ReadyCheck, SessionSpec
from streamspace_agent.units import format_bytes, parse_duration, parse_quantity

MIN_MEMORY = 6 * 1024**2  # the Docker Engine's own minimum for a container
MAX_MEMORY = 2**50
MIN_CPU = Decimal("0.01")  # the Docker Engine's own minimum
MAX_CPU = 4096
MAX_PATH = 500
MAX_PORTS = 64  # each may cost a proxy process on the engine's host
MAX_VOLUMES = 64
DEFAULT_VNC_PORT = 5900
HOME_MOUNTS = frozenset({"home", "user-home"})
DEFAULT_HOME = "/config"  # where the images of linuxserver.io, which most templates name, keep the user's home
_URL_PATH = re.compile(rf"/[!-~]{{0,{MAX_PATH - 1}}}")
_WEB = frozenset({"http", "https", "ws", "wss", "websocket"})


def _text(value: Any) -> Any:
    """Text of a JSON value: null stands for the default, and booleans are written as JSON writes them."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]


def _verbatim(value: Any) -> str:
    text = _text(value)
    if not isinstance(text, str | int | float):
        raise ValueError("should be a valid string")  # noqa: TRY004 - as pydantic's own validators do
    str(text).encode()  # a surrogate is a ValueError
    return str(text)


Verbatim = Annotated[str, PlainValidator(_verbatim)]
"""Text that keeps the white space at its ends: a PEM key needs its last newline."""


def _variables(value: Any) -> dict[str, str]:
    if not isinstance(value, dict | None):
        raise ValueError("should be an object")  # noqa: TRY004 - as above
    made = {}
    for name, text in (value or {}).items():
        try:
            made[name] = _verbatim(text)
        except ValueError as error:  # only the first problem is reported: to look for all takes time
            raise ValueError(f"{name[:60]}: {error}") from None
    return made


_OrEmpty = BeforeValidator(lambda v: {} if v is None else v)
_OrNone = BeforeValidator(lambda v: [] if v is None else v)
_OrFalse = BeforeValidator(lambda v: False if v is None else v)
_FIRST = FailFast()  # only the first problem is reported: to collect all takes time

Model = TypeVar("Model", bound=BaseModel)


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True, str_strip_whitespace=True, defer_build=True)


class _Resources(_Lenient):
    memory: Text = ""
    cpu: Text = ""


class _DefaultResources(_Resources):
    requests: Annotated[_Resources, _OrEmpty] = _Resources()
    limits: Annotated[_Resources, _OrEmpty] = _Resources()

    def first(self, key: str) -> str:
        """Limits win, requests are the fallback; the flat form is both."""
        return getattr(self.limits, key) or getattr(self, key) or getattr(self.requests, key) or ""


class _Port(_Lenient):
    name: Text = ""
    container_port: int = Field(alias="containerPort")
    protocol: Text = "tcp"


class _Variable(_Lenient):
    name: str
    value: Verbatim = ""


class _VolumeMount(_Lenient):
    name: str
    mount_path: str = Field(alias="mountPath")


class _Section(_Lenient):
    """A template's section about its screen or web page. A control plane in Go writes port 0 where none is given."""

    enabled: Annotated[bool, BeforeValidator(lambda v: True if v is None else v)] = True
    port: Annotated[int | None, BeforeValidator(lambda v: None if v in ("", 0, "0") else v)] = None
    protocol: Text = ""
    path: Text = ""
    health_check: Text = Field("", alias="healthCheck")


class _TemplateSpec(_Lenient):
    base_image: Text = Field(default="", alias="baseImage")
    default_resources: Annotated[_DefaultResources, _OrEmpty] = Field(_DefaultResources(), alias="defaultResources")
    ports: Annotated[list[_Port], _FIRST, _OrNone] = []
    env: Annotated[list[_Variable], _FIRST, _OrNone] = []
    volume_mounts: Annotated[list[_VolumeMount], _FIRST, _OrNone] = Field([], alias="volumeMounts")
    vnc: _Section | None = None
    kasmvnc: _Section | None = None
    webapp: _Section | None = None


class _Metadata(_Lenient):
    name: Text = ""


class _Template(_Lenient):
    metadata: Annotated[_Metadata, _OrEmpty] = _Metadata()
    spec: _TemplateSpec


class _StartSession(_Lenient):
    user: Text = ""
    template: Text = ""
    memory: Text = ""
    cpu: Text = ""
    resources: Annotated[_Resources, _OrEmpty] = _Resources()
    persistent_home: Annotated[bool, _OrFalse] = Field(default=False, alias="persistentHome")
    idle_timeout: Text = Field("", alias="idleTimeout")
    max_duration: Text = Field("", alias="maxSessionDuration")
    environment: Annotated[dict[str, str], PlainValidator(_variables)] = {}


def session_spec(command: Command) -> SessionSpec:
    """All that a driver needs, from a ``start_session`` command. Raises CommandFailed for what is invalid."""
    identity = names.session_id(command.payload)
    start = _parse(_StartSession, command.payload, "the command")
    template = _parse(_Template, _manifest(command.payload.get("templateManifest")), "templateManifest")
    spec = template.spec
    if not spec.base_image or re.search(r"[\s\x00]", spec.base_image):
        raise CommandFailed(
            "invalid_template", f"templateManifest.spec.baseImage {spec.base_image[:60]!r} is not an image name"
        )
    for what, given, limit in (("ports", spec.ports, MAX_PORTS), ("volumeMounts", spec.volume_mounts, MAX_VOLUMES)):
        if len(given) > limit:
            raise CommandFailed("invalid_template", f"the template has {len(given)} {what}: a session can have {limit}")
    ports = tuple(
        Port(_port(p.container_port, f"ports[{i}].containerPort"), p.name, p.protocol.lower() or "tcp")
        for i, p in enumerate(spec.ports)
    )
    for port in ports:
        if port.protocol not in {"tcp", "udp", "sctp"}:
            raise CommandFailed(
                "invalid_template", f"port {port.number} has the protocol {port.protocol[:20]!r}: use TCP or UDP"
            )
    ready, port_number = _readiness(spec, ports)
    path = _asked_path(spec)
    return SessionSpec(
        session_id=identity,
        user=start.user,
        template=start.template or template.metadata.name,
        image=spec.base_image,
        command_id=command.id,
        epoch=command.epoch,
        cpu=_cpu(start.cpu or start.resources.cpu or spec.default_resources.first("cpu")),
        memory=_memory(start.memory or start.resources.memory or spec.default_resources.first("memory")),
        environment=_environment(spec.env, start.environment),
        ports=ports,
        mounts=tuple(_mounts(spec, persistent_home=start.persistent_home)),
        ready=ready,
        port=port_number,
        path=path,
        idle_timeout=_duration(start.idle_timeout, "idleTimeout"),
        max_duration=_duration(start.max_duration, "maxSessionDuration"),
    )


def _parse(model: type[Model], value: Any, what: str) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in item["loc"]) or what
        problem = re.sub(r" or instance of \w+", "", item["msg"])
        code = "invalid_template" if model is _Template else "invalid_payload"
        raise CommandFailed(code, f"{what}: {place[:200]}: {problem[:1].lower()}{problem[1:]}") from None


def _manifest(value: Any) -> Any:
    """The manifest as an object, from an object, JSON text, or base64 of JSON text."""
    if isinstance(value, str):
        text = value.strip()
        if text and not text.startswith("{"):
            try:
                text = base64.b64decode("".join(text.split()), validate=True).decode()
            except ValueError:
                raise CommandFailed(
                    "invalid_template", "templateManifest is neither an object nor JSON nor base64 of JSON"
                ) from None
        try:
            value = json.loads(text) if text else None
        except (ValueError, RecursionError) as error:
            raise CommandFailed("invalid_template", f"templateManifest is not JSON: {error}") from None
    if value is None or value == {}:
        raise CommandFailed("missing_template", "the command has no templateManifest")
    if not isinstance(value, dict):
        raise CommandFailed("invalid_template", "templateManifest is not an object")
    return value


def _port(number: int, where: str) -> int:
    if not 1 <= number <= 65535:
        raise CommandFailed("invalid_port", f"{where} is {number}, a port is 1 to 65535")
    return number


def _readiness(spec: _TemplateSpec, ports: tuple[Port, ...]) -> tuple[ReadyCheck, int]:
    """What is expected on which port: that of vnc, kasmvnc or webapp, else the first TCP port of the list, else 5900.

    The protocol is a guess: a section may be wrong. A port's name says nothing: most templates of the public catalogue
    call one ``vnc`` where HTTP is spoken.
    """
    sections = [s for s in (spec.vnc, spec.kasmvnc, spec.webapp) if s and s.enabled]
    stated = [s.port for s in sections if s.port is not None]
    listed = [p.number for p in ports if p.protocol == "tcp"]
    if not sections and not listed and (spec.vnc or spec.kasmvnc):  # a section says that there is no desktop
        return ReadyCheck.NONE, 0
    expected = ReadyCheck.HTTP if sections else ReadyCheck.ANY  # KasmVNC is HTTP and WebSocket: it never greets
    if spec.vnc and spec.vnc.enabled and spec.vnc.protocol.lower() not in _WEB:
        expected = ReadyCheck.VNC
    return expected, _port([*stated, *listed, DEFAULT_VNC_PORT][0], "the port of the screen or web page")


def _asked_path(spec: _TemplateSpec) -> str:
    """The path to ask for where the session speaks HTTP."""
    page = spec.webapp if spec.webapp and spec.webapp.enabled else _Section(healthCheck="")
    name, path = ("healthCheck", page.health_check) if page.health_check else ("path", page.path or "/")
    if not _URL_PATH.fullmatch(path):
        raise CommandFailed(
            "invalid_template",
            f"webapp.{name} {path[:60]!r} is not the path of a URL: "
            f"begin with a slash, write what is not plain ASCII as %XX, at most {MAX_PATH} characters",
        )
    return path


def _memory(text: str) -> int | None:
    if not text:
        return None
    value = _quantity(text, "memory")
    if not MIN_MEMORY <= value <= MAX_MEMORY:
        raise CommandFailed(
            "invalid_quantity",
            f"memory {text} is {format_bytes(float(value))}: "
            f"a session can have {format_bytes(MIN_MEMORY)} to {format_bytes(MAX_MEMORY)}",
        )
    return int(value)


def _cpu(text: str) -> float | None:
    if not text:
        return None
    value = _quantity(text, "cpu")
    if not MIN_CPU <= value <= MAX_CPU:
        raise CommandFailed(
            "invalid_quantity", f"cpu {text} is {value:f} cores: a session can have {MIN_CPU} to {MAX_CPU}"
        )
    return float(value)


def _quantity(text: str, what: str) -> Decimal:
    try:
        return parse_quantity(text)
    except ValueError as error:
        raise CommandFailed("invalid_quantity", f"{what}: {error}") from None


def _duration(text: str, what: str) -> float | None:
    try:
        return (parse_duration(text) or None) if text else None
    except ValueError as error:
        raise CommandFailed("invalid_duration", f"{what}: {error}") from None


def _environment(template: list[_Variable], extra: Mapping[str, str]) -> dict[str, str]:
    merged = {v.name: v.value for v in template} | dict(extra)
    for name, value in merged.items():
        if not name or "=" in name or "\0" in name + value:
            raise CommandFailed("invalid_environment", f"{name[:60]!r} cannot be the name of an environment variable")
    return merged


def _mounts(spec: _TemplateSpec, *, persistent_home: bool) -> Iterator[Mount]:
    home = next((m.mount_path for m in spec.volume_mounts if m.name in HOME_MOUNTS), None)
    if persistent_home:
        home = home or next((v.value for v in spec.env if v.name == "HOME"), None) or DEFAULT_HOME
        yield Mount("home", _path(home, "home"))
    for mount in spec.volume_mounts:
        if mount.name in HOME_MOUNTS:
            continue
        if not names.USABLE.fullmatch(mount.name):
            raise CommandFailed("invalid_template", f"volumeMounts: {mount.name[:60]!r} cannot be a volume's name")
        yield Mount(mount.name, _path(mount.mount_path, mount.name))


def _path(path: str, name: str) -> str:
    if not path.startswith("/") or path == "/" or "\0" in path or ".." in path.split("/"):
        raise CommandFailed(
            "invalid_template",
            f"volumeMounts: {name} cannot be mounted at {path[:60]!r}: give an absolute path inside the session",
        )
    return path
