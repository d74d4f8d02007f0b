"""Checks that a Redis server can carry a lease, and warns of settings that endanger one. Changes nothing in it."""

import asyncio
import re

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, AuthenticationError, BusyLoadingError, NoPermissionError, RedisError

from streamspace_agent.election import Problem
from streamspace_agent.errors import BackendUnavailable
from streamspace_elect_redis.connection import Connector, close, explain
from streamspace_elect_redis.scripts import PERMISSIONS

MINIMUM = (5, 0)
"""The first Redis that lets a script read the server's state and then write."""
TIMEOUT = 4.0
"""Seconds for everything: below the 5 s that the core gives a preflight."""

LOGIN = "check user and password in REDIS_URL (or the file named by REDIS_URL_FILE)"
RIGHTS = "the README of streamspace-elect-redis shows the ACL rule for the user in REDIS_URL"


async def problems(connector: Connector, keys: tuple[str, str, str]) -> list[Problem]:
    """Raises BackendUnavailable when the server does not answer."""
    name = str(connector.address)
    try:
        async with asyncio.timeout(TIMEOUT):
            connection = await connector.connect()
            try:
                return await _check(connection, name, keys, sentinel=bool(connector.address.service))
            finally:
                await close(connection)
    except (AuthenticationError, NoPermissionError) as error:
        return [_refused(name, error)]
    except (RedisError, OSError) as error:
        raise BackendUnavailable(f"redis at {name}: {explain(error, TIMEOUT)}") from error


def _refused(name: str, error: Exception) -> Problem:
    text = " ".join(str(error).split())
    if isinstance(error, NoPermissionError):
        return Problem(f"redis at {name} does not let this user do what an election needs: {text}", RIGHTS)
    return Problem(f"redis at {name} refuses the login from REDIS_URL: {text}", LOGIN)


async def _check(
    connection: AbstractConnection, name: str, keys: tuple[str, str, str], *, sentinel: bool
) -> list[Problem]:
    info = await _info(connection)
    if info.get("loading") == "1":
        raise BusyLoadingError("it is still loading its data")
    found: list[Problem] = []
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < MINIMUM:
        found.append(Problem(f"redis at {name} is version {version}", "REDIS_URL must name Redis 5.0 or newer"))
    if info.get("role") == "slave":
        found.append(_replica(info, name, sentinel=sentinel))
    found += await _permissions(connection, name, keys)
    found += _memory(info, name)
    if info.get("aof_enabled") == "0":
        text = f"redis at {name} keeps no append-only file: after a restart it may not know who led"
        fix = (
            "set appendonly yes there, or accept that leadership pauses for one lease after such a restart; "
            "epochs rise all the same"
        )
        found.append(Problem(text, fix, fatal=False))
    return found


async def _info(connection: AbstractConnection) -> dict[str, str]:
    lines: list[str] = []
    for section in ("server", "replication", "memory", "persistence"):
        lines += str(await _call(connection, "INFO", section)).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


async def _call(connection: AbstractConnection, *words: str | int) -> object:
    await connection.send_command(*words)
    answer: object = await connection.read_response()
    return answer


def _replica(info: dict[str, str], name: str, *, sentinel: bool) -> Problem:
    # During a failover a replica is on its way to become the primary, or was named one a moment ago.
    steady = info.get("master_link_status") == "up" and not sentinel
    primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
    fix = f"REDIS_URL must name the primary ({primary}), or the Sentinels with redis+sentinel://"
    return Problem(f"redis at {name} is a replica of {primary} and takes no writes", fix, fatal=steady)


async def _permissions(connection: AbstractConnection, name: str, keys: tuple[str, str, str]) -> list[Problem]:
    found: list[Problem] = []
    try:
        refused = await _call(connection, "EVAL", PERMISSIONS, len(keys), *keys)
    except AskError as error:
        fix = "REDIS_URL must name a stand-alone Redis, or the node or proxy that serves these keys"
        return [Problem(f"redis at {name} is a node of a Redis Cluster without {keys[0]}: {error}", fix)]
    except NoPermissionError as error:
        return [_refused(name, error)]
    if isinstance(refused, list) and refused:
        text = f"redis at {name} refuses this user: {', '.join(map(str, refused))}"
        found.append(Problem(text, RIGHTS))
    try:
        await _call(connection, "SUBSCRIBE", keys[0])
    except NoPermissionError:
        text = f"redis at {name} does not let this user subscribe to {keys[0]}: a released lease is noticed late"
        found.append(Problem(text, RIGHTS, fatal=False))
    return found


def _memory(info: dict[str, str], name: str) -> list[Problem]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or info.get("maxmemory", "0") == "0":
        return []
    text = f"redis at {name} has maxmemory-policy {policy}: when memory runs short it may drop the leader's record"
    fix = (
        "set maxmemory-policy noeviction, or point REDIS_URL at a Redis that is no cache; "
        "a lost record deposes the leader for one lease"
    )
    return [Problem(text, fix, fatal=False)]
