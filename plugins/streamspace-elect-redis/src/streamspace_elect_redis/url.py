"""The address of Redis and the login: ``REDIS_URL`` and the ``REDIS_TLS_*`` files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from streamspace_agent.errors import ConfigError

EXAMPLE = "redis://redis.example.com:6379/0"
FORMS = (
    "redis://[user:password@]host:6379/0, rediss:// for TLS, unix:///run/redis/redis.sock, "
    "redis+sentinel://[user:password@]host1:26379,host2:26379/service/0 or rediss+sentinel://"
)
FILES = {"ca": "REDIS_TLS_CA_FILE", "cert": "REDIS_TLS_CERT_FILE", "key": "REDIS_TLS_KEY_FILE"}

_SCHEMES = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "rediss+sentinel": 26379, "unix": 0}
_QUERY = {
    "unix": {"db"},
    "redis+sentinel": {"sentinel_username", "sentinel_password"},
    "rediss+sentinel": {"sentinel_username", "sentinel_password"},
}


@dataclass(frozen=True, slots=True)
class Login:
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Exactly one of ``path`` (a socket), ``service`` (found through the Sentinels in ``hosts``) or one host."""

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: bool = False
    files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """For messages: without credentials."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        place = self.path or (f"{self.service} of the Sentinels {hosts}" if self.service else hosts)
        return f"{place}/{self.db}" if self.db else place


def parse(url: str | None, environ: Mapping[str, str]) -> Address:
    """Raises ConfigError with every problem. None of them shows a part of the URL that may be a password."""
    if not url:
        raise ConfigError(
            [f"REDIS_URL is not set: the redis election backend needs it, for example REDIS_URL={EXAMPLE}"]
        )
    files, problems = _files(environ)
    try:
        address = _parse(url, files)
    except ValueError as error:
        problems.insert(0, f"REDIS_URL: {error}; write {FORMS}")
    else:
        if files and not address.tls:
            problems.append(f"{FILES[next(iter(files))]} is set, but REDIS_URL asks for no TLS: write rediss://")
    if problems:
        raise ConfigError(problems)
    return address


def _files(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    files = {kind: path for kind, name in FILES.items() if (path := environ.get(name, "").strip())}
    problems = [f"{FILES[kind]}: no such file: {path}" for kind, path in files.items() if not Path(path).is_file()]
    if ("cert" in files) != ("key" in files):
        problems.append(f"{FILES['cert']} and {FILES['key']} belong together: set both or neither")
    return files, problems


def _parse(url: str, files: Mapping[str, str]) -> Address:
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES or "://" not in url:
        raise ValueError("must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.fragment or "#" in url:
        raise ValueError("holds a #: in a password write %23")
    query = _query(parts.query, _QUERY.get(scheme, set()))
    credentials, at, netloc = parts.netloc.rpartition("@")
    name, colon, password = credentials.partition(":")
    if at and not colon:
        raise ValueError("has a user but no password: write user:password@, or :password@")
    login = Login(unquote(name) or None, unquote(password) or None)
    if scheme == "unix":
        if netloc or not parts.path.strip("/"):
            raise ValueError("a unix:// URL names a socket with three slashes")
        return Address(path=unquote(parts.path), db=_db(query.get("db", "")), login=login)
    hosts = tuple(_host(text, _SCHEMES[scheme]) for text in netloc.split(","))
    path = unquote(parts.path).strip("/")
    tls = scheme.startswith("rediss")
    if not scheme.endswith("sentinel"):
        if len(hosts) > 1:
            raise ValueError("names several hosts: several Sentinels go into a redis+sentinel:// URL")
        return Address(hosts, db=_db(path), login=login, tls=tls, files=files)
    service, _, db = path.partition("/")
    if not service:
        raise ValueError("does not name the Sentinels' service: host1:26379,host2:26379/mymaster")
    sentinels = Login(query.get("sentinel_username"), query.get("sentinel_password"))
    return Address(hosts, "", service, _db(db), login, sentinels, tls, files)


def _query(text: str, known: set[str]) -> dict[str, str]:
    query = {key: values[-1] for key, values in parse_qs(text, keep_blank_values=True).items()}
    if query.keys() - known:
        allowed = f"only {' and '.join(sorted(known))}" if known else "no options"
        raise ValueError(f"may hold {allowed} after the ?; in a password write %3F for it")
    return query


def _host(text: str, default: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>\d{1,5}))?", text)
    if not match or not 0 < int(match["port"] or default) < 65536:
        raise ValueError("has no valid host:port (in a password, write / : @ as %2F %3A %40)")
    return match["six"] or match["host"], int(match["port"] or default)


def _db(text: str) -> int:
    if text and not re.fullmatch(r"\d{1,5}", text):
        raise ValueError("the database must be a number, such as the 0 in host:6379/0")
    return int(text or 0)
