"""Addresses and networks as settings write them: addresses to listen on, networks that are allowed, and URLs."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network
"""An IPv4 or IPv6 network."""
Address = IPv4Address | IPv6Address


def _items(text: str) -> list[str]:
    return [item for part in text.split(",") if (item := part.strip())]


def listening(text: str) -> tuple[tuple[str, int], ...]:
    """Parse ``HOST:PORT,[IPV6]:PORT`` into pairs of host (without brackets) and port. Raises ValueError."""
    found = []
    for item in _items(text):
        host, _, port = item.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
            raise ValueError(f"{item!r} is not host:port: write for example 0.0.0.0:3000,0.0.0.0:8080")
        found.append((host, int(port)))
    return tuple(dict.fromkeys(found))


def networks(text: str) -> tuple[Network, ...]:
    """Parse ``10.0.0.0/8,192.0.2.7,private`` into networks. Raises ValueError."""
    found: list[Network] = []
    for item in _items(text):
        if item.lower() == "private":
            found += PRIVATE
            continue
        try:
            found.append(ip_network(item))
        except ValueError as error:
            raise ValueError(f"{item!r} is not a network: {error}; write for example 10.1.0.0/16,private") from None
    return tuple(found)


# RFC 1918, RFC 4193, and each family's loopback and link-local addresses.
PRIVATE = networks("10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,127.0.0.0/8,169.254.0.0/16,::1/128,fc00::/7,fe80::/10")
"""The networks that ``private`` stands for in a list."""


def shown(host: str, port: int) -> str:
    """Write an address as ``host:port``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def only_private(listed: Iterable[Network]) -> bool:
    """Whether all networks lie within the private ones."""
    return all(any(n[0] in private and n[-1] in private for private in PRIVATE) for n in listed)


def source(peer: str) -> Address | None:
    """Parse an address as a socket reports its peer's (``::ffff:10.0.0.1``, ``fe80::1%eth0``). None if it is none."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    address = source(host)
    return address.is_loopback if address else host == "localhost"


def base_url(text: str) -> str:
    """Check a control plane's URL and remove its trailing slash. Raises ValueError, which never quotes a password."""
    open_text = "" if set("@?#") & set(text) else text[:60]
    if "://" not in text:
        host = open_text.lstrip("/") or "control.example.com"
        written = f"is {open_text}, which has no scheme" if open_text else "must begin with a scheme"
        raise ValueError(f"{written}: write wss://{host}, or ws://{host} where it speaks no TLS")
    parts = urlsplit(text)
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("its port must be a number up to 65535") from None
    if parts.scheme not in {"ws", "wss", "http", "https"} or not parts.hostname:
        raise ValueError(f"must be a URL such as wss://control.example.com{open_text and f', not {open_text}'}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must contain neither credentials nor a query: the key belongs in AGENT_API_KEY")
    return parts.scheme + text[len(parts.scheme) :].rstrip("/")  # the scheme in lower case
