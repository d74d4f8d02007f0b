"""Chooses the proxy for the control plane: ``HTTPS_PROXY``, unless ``NO_PROXY`` names its host."""

from contextlib import suppress
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies

from streamspace_agent.config import Settings
from streamspace_agent.errors import ConfigError


def proxy_for(settings: Settings) -> str:
    """The environment's proxy for the control plane, "" for none; used for TLS only. Raises ConfigError."""
    parts = urlsplit(settings.http_url)
    proxies = getproxies()
    proxy = proxies.get("https", "") if parts.scheme == "https" else ""
    if not proxy or bypassed(parts.hostname or "", parts.port or 443, proxies.get("no", "")):
        return ""
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.lower().startswith(("http://", "https://")) or not urlsplit(proxy).hostname:
        kind = proxy.partition("://")[0]
        raise ConfigError(
            [f"HTTPS_PROXY: a proxy of the kind {kind}:// cannot be used; write http://[USER:PASSWORD@]HOST:PORT"]
        )
    return proxy


def bypassed(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` matches this host: by name or parent domain, address, network, or ``*``."""
    return any(_names(entry, host.lower().rstrip("."), port) for entry in no_proxy.lower().replace(",", " ").split())


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    with suppress(ValueError):
        network = ip_network(entry.strip("[]"), strict=False)
        return address is not None and address in network
    name, colon, only = entry.rpartition(":")
    if colon and only.isdecimal():
        return int(only) == port and _names(name, host, port)
    entry = entry.removeprefix("*").strip(".")
    return bool(entry) and (host == entry or (address is None and host.endswith(f".{entry}")))
