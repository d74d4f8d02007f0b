"""Image references: their grammar, which of them may be used, and whether their registry is private.

A reference comes from a template, and decides which host the engine asks for an image and which path the driver calls.
Grammar: https://github.com/distribution/reference
"""

import asyncio
import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from streamspace_agent.errors import CommandFailed

DOCKER_HUB = "docker.io"
MAX_LENGTH = 512
"""Characters; a name may have 255, a tag 128, a digest some more."""
RESOLVE_TIMEOUT = 2.0
"""Seconds for resolving the name of a registry that has refused a pull."""

_DOMAIN_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9+._-]{0,31}:[0-9a-fA-F]{32,256}")


@dataclass(frozen=True, slots=True)
class Reference:
    """``name`` as the registry knows the repository: ``ubuntu`` is ``library/ubuntu`` of ``docker.io``."""

    registry: str
    name: str


def checked(image: str) -> Reference:
    """Parse a reference. Raises CommandFailed if it is not valid."""
    rest, at, digest = image[: MAX_LENGTH + 1].partition("@")
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        head, tag = rest, ""
    first, slash, path = head.partition("/")
    if not slash or not (set(first) & set(".:") or first == "localhost" or first != first.lower()):
        first, path = DOCKER_HUB, head
    sound = (
        len(image) <= MAX_LENGTH
        and _is_registry(first)
        and all(_PATH_PART.fullmatch(part) for part in path.split("/"))
        and (not (colon and head != rest) or _TAG.fullmatch(tag))
        and (not at or _DIGEST.fullmatch(digest))
    )
    if not sound:
        raise CommandFailed(
            "invalid_image",
            f"{image[:60]!r} is no image reference: "
            "write for example ubuntu:24.04 or registry.example.com/team/desktop:1",
        )
    return Reference(first, f"library/{path}" if first == DOCKER_HUB and "/" not in path else path)


def _is_registry(text: str) -> bool:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host = text
    elif not re.fullmatch(r"[0-9]{1,5}", port):
        return False
    if host.startswith("[") and host.endswith("]"):
        try:
            return bool(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            return False
    return all(_DOMAIN_PART.fullmatch(part) for part in host.split("."))


def allowed(reference: Reference, patterns: Collection[str]) -> bool:
    """Does one of the patterns of ALLOWED_IMAGES match? An empty list allows everything."""
    return not patterns or any(_matches(reference, pattern) for pattern in patterns)


def _matches(reference: Reference, pattern: str) -> bool:
    whole = f"{reference.registry}/{reference.name}"
    return whole.startswith(pattern[:-1]) if pattern.endswith("/*") else whole == pattern


def pattern(text: str) -> str:
    """One entry of ALLOWED_IMAGES in full: ``lscr.io`` is ``lscr.io/*``, ``ubuntu`` is ``docker.io/library/ubuntu``.

    Raises ValueError.
    """
    below = text.removesuffix("/*")
    if _names_registry(below):
        return f"{below}/*"
    try:
        found = checked(below)
    except CommandFailed:
        found = None
    if found is None or below.rpartition("/")[2] != found.name.rpartition("/")[2]:
        raise ValueError(
            f"{text[:60]} is no registry or image: "
            "write for example lscr.io, ghcr.io/team/* or docker.io/library/ubuntu, without a tag"
        )
    if below == text:
        return f"{found.registry}/{found.name}"
    return f"{found.registry}/{below.removeprefix(f'{found.registry}/')}/*"


def _names_registry(text: str) -> bool:
    return "/" not in text and (text == "localhost" or "." in text or ":" in text) and _is_registry(text)


async def private(registry: str) -> bool:
    """Is the registry on a loopback or private address, as far as this host can tell?

    Answers of such an address must not reach the author of a template, who may have named anything.
    """
    host = registry.rpartition(":")[0] if re.search(r":[0-9]+$", registry) else registry
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        pass
    if "." not in host:
        return True
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:
        return True
    return not all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global for *_, address in found)
