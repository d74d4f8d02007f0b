"""Log lines that say who speaks, and never a secret.

Every line carries time, level, the logger's short name and the message, then the context as far as it is known:
agent, instance, epoch, session, command. Secrets are removed from the finished text, traceback included, so that
no call site has to think of them.
"""

import json
import logging
import os
import re
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

from streamspace_agent.config import Settings

MASK = "***"
MIN_SECRET = 4
"""Characters; a shorter secret would be cut out of ordinary words."""

BRIEF_LINES = 5

_JOURNAL_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
# At debug these write out every frame and header: people's screens, and keys.
_CHATTY = ("websockets", "urllib3", "docker", "redis")

_NAME = r"x-agent-api-key|x-registry-auth|authorization|api[_-]?key|identitytoken|passw(?:or)?d|secret|token"
_Q = r"\\{0,8}[\"']"  # a quote, also as JSON inside a JSON string has it
# Bounded wherever a scan could begin again at each character: what is redacted may be megabytes, and hostile.
_PATTERNS = (
    # redis://user:pass@host; a password may hold an @, so up to the last one before the path
    (re.compile(r"(?P<kept>[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,200}:)[^\s/]+(?=@)", re.IGNORECASE), rf"\g<kept>{MASK}"),
    # a variable as a template lists it: what makes it a secret stands in its name
    (
        re.compile(
            rf"(?P<kept>name{_Q}\s{{0,20}}:\s{{0,20}}{_Q}[^\"']{{0,100}}(?:{_NAME})[^\"']{{0,100}}{_Q}\s{{0,20}},\s{{0,20}}{_Q}value{_Q}\s{{0,20}}:\s{{0,20}}{_Q})[^\"'\\]+",
            re.IGNORECASE,
        ),
        rf"\g<kept>{MASK}",
    ),
    # a manifest in base64 may hold any of these; a digest is shorter
    (re.compile(r"[A-Za-z0-9+/]{100,}={0,2}"), MASK),
    (
        re.compile(
            rf"(?P<kept>(?:{_NAME})(?:[\"']?\s*[:=]\s*[\"']?|[\"'],\s*b?[\"'])(?:bearer\s+|basic\s+)?)[^\s\"',;&)}}]+",
            re.IGNORECASE,
        ),
        rf"\g<kept>{MASK}",
    ),
)
# What a line must not carry: control characters could forge lines or drive the reader's terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
# Line and paragraph separators, which some readers end a line at, and what turns the direction of writing.
_CONTROLS |= {code: f"\\u{code:04x}" for code in (*range(0x2028, 0x202F), *range(0x2066, 0x206A))}

_bound: ContextVar[Mapping[str, str | int]] = ContextVar("streamspace_agent_log_fields", default=MappingProxyType({}))
_process: dict[str, str | int] = {}
_secrets: set[str] = set()


def bind(**fields: str | int) -> ExitStack:
    """Add fields to every line of the current task (and of tasks it starts): ``with logs.bind(session=...):``.

    Called without ``with`` they stay until the task ends.
    """
    token = _bound.set({**_bound.get(), **fields})
    stack = ExitStack()
    stack.callback(_bound.reset, token)
    return stack


def context(**fields: str) -> Context:
    """The context for a task that outlives the work it is started in: that work's fields are left out, these are put in."""
    own = copy_context()
    own.run(_bound.set, fields)
    return own


def set_epoch(epoch: int | None) -> None:
    """Name the leadership that every line from now on belongs to; None when there is none."""
    if epoch is None:
        _process.pop("epoch", None)
    else:
        _process["epoch"] = epoch


def hide(secret: str) -> None:
    """Remove this value from everything that is logged, as it is and as a URL, JSON or ``repr`` writes it."""
    if len(secret) >= MIN_SECRET:
        in_json = (json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
        _secrets.update((secret, urllib.parse.quote(secret, safe=""), repr(secret)[1:-1], *in_json))


def hide_url(url: str) -> None:
    """Hide the password in a URL."""
    try:
        password = urllib.parse.urlsplit(url).password
    except ValueError:
        hide(url)
        return
    if password:
        hide(password)
        hide(urllib.parse.unquote(password))


def hide_settings(settings: Settings) -> None:
    if settings.agent_api_key:
        hide(settings.agent_api_key.get_secret_value())
    if settings.redis_url:
        hide_url(settings.redis_url.get_secret_value())


def redact(text: str) -> str:
    """The text without known secrets and without what looks like one."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def brief(text: str) -> str:
    """A reason as a line of the log shows it: of a session's last words, which begin in the second line, the last few."""
    first, *more = text.split("\n")
    return "\n".join([first, *[line for line in more if line.strip()][-BRIEF_LINES:]])


def configure(
    settings: Settings,
    fields: Mapping[str, str],
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Send the log to ``stream`` (stderr) as the settings say. ``fields`` (agent, instance) go into every line.

    Called again it replaces what it set up before, and nothing else.
    """
    stream = stream or sys.stderr
    hide_settings(settings)
    for name in [name for name in _process if name != "epoch"]:
        del _process[name]
    _process.update({name: value for name, value in fields.items() if value})

    journal = _is_journal(stream, os.environ if environ is None else environ)
    write_to(stream, JsonFormatter() if settings.log_format == "json" else TextFormatter(journal=journal))
    root = logging.getLogger()
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.INFO if level == logging.DEBUG else logging.WARNING))
    logging.captureWarnings(capture=True)


def write_to(stream: TextIO, formatter: logging.Formatter) -> None:
    """Send the log there and nowhere else that this module sent it before."""
    handler = _Handler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from others' on the root logger."""


class TextFormatter(logging.Formatter):
    """``TIME LEVEL logger: message key=value ...``, the fields after the message's first line; further lines are indented,
    so that none can pass for a new entry.

    journald adds the time itself and reads the level from a ``<N>`` before each line.
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        head = f"{record.levelname:<7} " if self._journal else f"{_time(record)} {record.levelname:<7} "
        context = "".join(f" {name}={_quoted(value)}" for name, value in _fields())
        said, newline, rest = record.getMessage().partition("\n")
        text = f"{_short(record.name)}: {said}{context}{newline}{rest}"
        text = redact("\n".join((text, *_trace(self, record)))).translate(_CONTROLS)
        first, *more = text.split("\n")
        lines = [head + first, *(f"    {line}" for line in more)]
        prefix = f"<{_JOURNAL_PRIORITY.get(record.levelno, 6)}>" if self._journal else ""
        return "\n".join(prefix + line for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the context, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": _short(record.name),
            "message": redact(record.getMessage()),
            **{name: redact(value) if isinstance(value, str) else value for name, value in _fields()},
        }
        if trace := "\n".join(_trace(self, record)):
            line["exception"] = redact(trace)
        return json.dumps(line, ensure_ascii=False)


def _fields() -> Iterator[tuple[str, str | int]]:
    yield from {**_process, **_bound.get()}.items()


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> Iterator[str]:
    if record.exc_info and record.exc_info[0]:
        yield formatter.formatException(record.exc_info)
    if record.stack_info:
        yield formatter.formatStack(record.stack_info)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(name: str) -> str:
    """``link`` for ``streamspace_agent.controlplane.link``, ``runtime_docker.events`` for a plugin's module."""
    core = name.startswith("streamspace_agent.")
    return name.rpartition(".")[2] if core else name.removeprefix("streamspace_")


def _quoted(value: str | int) -> str:
    value = str(value)
    return value if re.fullmatch(r"[^\s\"=]+", value) else json.dumps(value, ensure_ascii=False)


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Is this stream the one that systemd connected to journald? (systemd.exec(5), ``$JOURNAL_STREAM``)."""
    named = environ.get("JOURNAL_STREAM", "")
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{stat.st_dev}:{stat.st_ino}"
