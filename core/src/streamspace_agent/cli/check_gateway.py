"""The part of ``docker-agent check`` that looks whether sessions' host names lead to the web gateway.

The control plane's resolver decides, and may know other names than this host's, so no problem found here is fatal.
"""

import asyncio
import socket
from contextlib import suppress
from ipaddress import ip_address

from streamspace_agent.addresses import listening
from streamspace_agent.cli.findings import Finding, Level
from streamspace_agent.config import Settings
from streamspace_agent.gateway import DOMAIN

NAME = f"check.{DOMAIN}"
PORTS = frozenset({3000, 6901, 8080})
"""The ports that the control plane connects to."""
TIMEOUT = 5.0
GUIDE = "see Web desktops in deployments/README.md"


async def check_gateway(settings: Settings) -> list[Finding]:
    addresses = listening(settings.web_gateway or "")
    if not addresses:
        return [Finding("gateway", Level.OK, "off: WEB_GATEWAY is not set, nothing serves web desktops")]
    findings: list[Finding] = []

    def warn(message: str, fix: str) -> None:
        findings.append(Finding("gateway", Level.WARNING, message, fix))

    ports = {port for _, port in addresses}
    if not ports & PORTS:
        listens, asked = (", ".join(map(str, sorted(each))) for each in (ports, PORTS))
        fix = "add the ports that your templates need, unless a proxy in between passes requests on to this one"
        warn(f"WEB_GATEWAY listens at port {listens}, the control plane connects to {asked}", fix)
    served: set[str] = set()
    for host, _ in addresses:
        served |= await _addresses_of(host)
    for host in sorted(served):
        if not _is_ours(host):
            warn(f"{host} in WEB_GATEWAY is no address of this host", "name one, unless it moves with the leadership")
    found = await _addresses_of(NAME)
    everywhere = any(ip_address(host.partition("%")[0]).is_unspecified for host in served)
    points = f"{NAME} points from here to {', '.join(sorted(found))}"
    arrives = f"WEB_GATEWAY={settings.web_gateway}"
    if not found:
        fix = f"let *.{DOMAIN} point to WEB_GATEWAY in the control plane's resolver, not in this host's ({GUIDE})"
        warn(f"{NAME} does not resolve from here", fix)
    elif not any(address in served or (everywhere and _is_ours(address)) for address in found):
        fix = f"ignore this if a proxy there passes requests on, or the control plane resolves it otherwise ({GUIDE})"
        warn(f"{points}, which is no address of {arrives}", fix)
    return findings or [Finding("gateway", Level.OK, f"{points}, where {arrives} listens")]


async def _addresses_of(host: str) -> set[str]:
    with suppress(OSError, UnicodeError):
        async with asyncio.timeout(TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return {str(entry[4][0]) for entry in found}
    return set()


def _is_ours(address: str) -> bool:
    """Whether the address belongs to this host, which can bind it then."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
