"""The log: lines that name agent, epoch, session and command, and never show a secret.

A line holds time, level, the logger's short name and the message, then the fields that are known: agent, instance,
epoch, session, command. Secrets are removed from the finished text, tracebacks included, so that no caller has to
think of them.
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
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:  # a log needs no model of the settings
    from streamspace_agent.config import Settings

MASK = "***"
MIN_SECRET = 4
"""Characters. A shorter secret is not removed: it may be part of ordinary words."""
BRIEF_LINES = 5
"""How many of a session's last lines of output a log line shows."""

_JOURNAL_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
# At debug level these log every frame and header: people's screens, and keys.
_CHATTY = ("websockets", "urllib3", "docker", "redis")

_NAME = r"x-agent-api-key|x-registry-auth|authorization|api[_-]?key|identitytoken|passw(?:or)?d|secret|token"
_Q = r"\\{0,8}[\"']"  # a quote, escaped or not: JSON inside a JSON string escapes it
_COLON = r"\s{0,20}:\s{0,20}"
# Repetitions are bounded wherever a match could start at every character: the text may be megabytes long and hostile.
_PATTERNS = (
    # redis://user:pass@host: up to the last @ before the path, since a password may contain one
    (re.compile(r"(?P<kept>[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,200}:)[^\s/]+(?=@)", re.IGNORECASE), rf"\g<kept>{MASK}"),
    # {"name": "DB_PASSWORD", "value": "..."}: a variable of a template, whose name says that it is secret
    (
        re.compile(
            rf"(?P<kept>name{_Q}{_COLON}{_Q}[^\"']{{0,100}}(?:{_NAME})[^\"']{{0,100}}{_Q}\s{{0,20}},\s{{0,20}}"
            rf"{_Q}value{_Q}{_COLON}{_Q})[^\"'\\]+",
            re.IGNORECASE,
        ),
        rf"\g<kept>{MASK}",
    ),
    # base64 may encode any of these (a manifest); a digest is shorter
    (re.compile(r"[A-Za-z0-9+/]{100,}={0,2}"), MASK),
    (
        re.compile(
            rf"(?P<kept>(?:{_NAME})(?:[\"']?\s*[:=]\s*[\"']?|[\"'],\s*b?[\"'])(?:bearer\s+|basic\s+)?)[^\s\"',;&)}}]+",
            re.IGNORECASE,
        ),
        rf"\g<kept>{MASK}",
    ),
)
# Characters that a line must not contain: control characters could forge lines or control the reader's terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
# Line and paragraph separators, at which some readers end a line, and characters that change the writing direction.
_SEPARATORS = {code: f"\\u{code:04x}" for code in (*range(0x2028, 0x202F), *range(0x2066, 0x206A))}
_ESCAPED = _CONTROLS | _SEPARATORS

_bound: ContextVar[Mapping[str, str | int]] = ContextVar("streamspace_agent_log_fields", default=MappingProxyType({}))


class _OfProcess(logging.Filter):
    """The secrets and fields of the whole process.

    Python's logging is process-wide, and these belong to it: the object is a filter that lets every record pass, kept
    by the logger ``streamspace_agent``. So :func:`hide` works before and after :func:`configure`, from every thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.secrets: tuple[str, ...] = ()
        """Longest first: one may be part of another."""
        self.fields: Mapping[str, str] = {}
        self.epoch: Mapping[str, int] = {}


def _of_process() -> _OfProcess:
    logger = logging.getLogger("streamspace_agent")
    kept = next((each for each in logger.filters if isinstance(each, _OfProcess)), None)
    if kept is None:
        kept = _OfProcess()
        logger.addFilter(kept)
    return kept


def bind(**fields: str | int) -> ExitStack:
    """Add fields to every line of the current task and of tasks that it starts: ``with logs.bind(session=...):``.

    Called without ``with``, the fields stay until the task ends.
    """
    token = _bound.set({**_bound.get(), **fields})
    stack = ExitStack()
    stack.callback(_bound.reset, token)
    return stack


def context(**fields: str) -> Context:
    """The context for a task that outlives the work that starts it: with these fields instead of that work's."""
    own = copy_context()
    own.run(_bound.set, fields)
    return own


def set_epoch(epoch: int | None) -> None:
    """Add the epoch to every line from now on; None removes it."""
    _of_process().epoch = {} if epoch is None else {"epoch": epoch}


def known_fields() -> dict[str, str | int]:
    """The fields of a line that is logged now: the process's, then those bound by the current task."""
    process = _of_process()
    return {**process.fields, **process.epoch, **_bound.get()}


def hide(secret: str) -> None:
    """Remove this value from everything that is logged or printed, also as a URL, JSON or ``repr`` writes it."""
    if len(secret) >= MIN_SECRET:
        in_json = (json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
        process = _of_process()
        known = {*process.secrets, secret, urllib.parse.quote(secret, safe=""), repr(secret)[1:-1], *in_json}
        process.secrets = tuple(sorted(known, key=len, reverse=True))


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


def hide_settings(settings: "Settings") -> None:
    if settings.agent_api_key:
        hide(settings.agent_api_key.get_secret_value())
    if settings.redis_url:
        hide_url(settings.redis_url.get_secret_value())


def redact(text: str) -> str:
    """The text without known secrets and without what looks like a secret."""
    for secret in _of_process().secrets:
        text = text.replace(secret, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def brief(text: str) -> str:
    """A reason, shortened for the log: its first line, and the last few lines of the session's output after it."""
    first, *more = text.split("\n")
    return "\n".join([first, *[line for line in more if line.strip()][-BRIEF_LINES:]])


def configure(
    settings: "Settings",
    fields: Mapping[str, str],
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Send the log to ``stream`` (stderr) as the settings say, with ``fields`` (agent, instance) in every line.

    A later call replaces what an earlier one set up, and nothing else.
    """
    stream = stream or sys.stderr
    hide_settings(settings)
    _of_process().fields = {name: value for name, value in fields.items() if value}
    journal = _is_journal(stream, os.environ if environ is None else environ)
    write_to(stream, JsonFormatter() if settings.log_format == "json" else TextFormatter(journal=journal))
    root = logging.getLogger()
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.INFO if level == logging.DEBUG else logging.WARNING))
    logging.captureWarnings(capture=True)


def write_to(stream: TextIO, formatter: logging.Formatter) -> None:
    """Send the log to this stream, and no longer to one that was set before."""
    handler = _Handler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)


class _Handler(logging.StreamHandler[TextIO]):
    """Tells our handler from others on the root logger."""


class TextFormatter(logging.Formatter):
    """``TIME LEVEL logger: message key=value ...``: the fields follow the message's first line.

    Further lines are indented, so that none looks like a new entry. For journald, which adds the time itself and reads
    the level from a prefix ``<N>``, each line has that prefix and no time.
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        head = f"{record.levelname:<7} " if self._journal else f"{_time(record)} {record.levelname:<7} "
        context = "".join(f" {name}={_quoted(value)}" for name, value in known_fields().items())
        said, newline, rest = record.getMessage().partition("\n")
        text = f"{_short(record.name)}: {said}{context}{newline}{rest}"
        text = redact("\n".join((text, *_trace(self, record)))).translate(_ESCAPED)
        first, *more = text.split("\n")
        lines = [head + first, *(f"    {line}" for line in more)]
        prefix = f"<{_JOURNAL_PRIORITY.get(record.levelno, 6)}>" if self._journal else ""
        return "\n".join(prefix + line for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": _short(record.name),
            "message": redact(record.getMessage()),
            **{name: redact(value) if isinstance(value, str) else value for name, value in known_fields().items()},
        }
        if trace := "\n".join(_trace(self, record)):
            line["exception"] = redact(trace)
        return json.dumps(line, ensure_ascii=False)


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
    """Whether systemd connected this stream to journald (systemd.exec(5), ``$JOURNAL_STREAM``)."""
    named = environ.get("JOURNAL_STREAM", "")
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{stat.st_dev}:{stat.st_ino}"
