"""Creates a session's volumes, gives them to the session's user, and removes them.

Volumes are found by name if possible: to list them, the engine asks every volume plugin, and waits 15 s for a dead one.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed, LeaseLost, RuntimeDriverError
from streamspace_agent.runtime import Mount, SessionSpec
from streamspace_engine import Engine
from streamspace_engine.errors import EngineError, NotFound
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.config import volume_name
from streamspace_runtime_docker.containers.files import find_folder, own_folder, read_file
from streamspace_runtime_docker.containers.info import ContainerInfo

log = logging.getLogger(__name__)

REST_PATIENCE = 1.0
"""Seconds for which a stop waits until volumes that the present container does not use are removed, too."""
_ACCOUNTS = 256 * 1024
"""Bytes of an image's /etc/passwd and /etc/group that are read, at most."""


class Volumes:
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._made: dict[str, set[str]] = {}
        """Names of volumes by the command that created them, until that command ends."""
        self._sweeps: set[asyncio.Task[None]] = set()

    async def create(self, spec: SessionSpec, mount: Mount) -> None:
        """Create a volume; an existing one of the session is used as it is. Raises CommandFailed."""
        await self._wait_for_sweeps(spec.session_id)
        name = volume_name(spec.session_id, mount.name)
        own_labels = labels.of_session(self._settings.agent_id, spec) | {labels.VOLUME: mount.name}
        try:
            body = await self._engine.post(
                "/volumes/create", {"Name": name, "Driver": self._settings.volume_driver, "Labels": own_labels}
            )
        except EngineError as error:
            # Podman refuses a volume that another start creates at this moment, in several wordings; Docker does not.
            body = await self._engine.find(f"/volumes/{name}")
            if body is None:
                raise CommandFailed("volume_failed", f"cannot create the volume {name}: {error.text}") from error
        if owner := self._other_owner(spec.session_id, body, spec.user):
            raise CommandFailed(
                "volume_taken", f"the volume {name} belongs to {owner}: remove or rename it, or use another session id"
            )
        if (body.get("Labels") or {}).get(labels.COMMAND) == spec.command_id:
            self._made.setdefault(spec.command_id, set()).add(name)

    def _other_owner(self, session_id: str, volume: Mapping[str, Any], user: str | None = None) -> str:
        """The owner of a volume that is not the session's, else "": nobody may see other people's data."""
        values = volume.get("Labels") or {}
        if not values and volume.get("Scope") == "global":
            return ""  # an agent on another host created it, and labels stay on that host: the name has to do
        if (session := values.get(labels.SESSION)) != session_id:
            return f"the session {session}" if session else "no session"
        if (agent := values.get(labels.AGENT)) != self._settings.agent_id:
            return f"the agent {agent}"
        owner = values.get(labels.USER)
        return "" if user is None or owner == user else f"the user {owner!r}"

    def confirm(self, spec: SessionSpec) -> None:
        """The command succeeded: its volumes are in use, and are not undone any more."""
        self._made.pop(spec.command_id, None)

    async def give_to_user(self, spec: SessionSpec, found: ContainerInfo) -> None:
        """Give the volumes that this command created to the image's user, if they are root's.

        The engine copies the owner of the image's folder at that place; if the image has no such folder, it is root.
        """
        user, _, group = found.user.partition(":")
        if not spec.mounts or user in {"", "0", "root"}:
            return
        try:
            uid, gid = await self._ids(found, user, group)
            for mount in spec.mounts:
                body = await self._engine.find(f"/volumes/{volume_name(spec.session_id, mount.name)}") or {}
                if (body.get("Labels") or {}).get(labels.COMMAND) == spec.command_id:
                    await self._give(found, mount.path, uid, gid)
        except (EngineError, ValueError) as error:
            log.warning("%s: cannot give its volumes to its user %s: %s", found.name, found.user, error)

    async def _ids(self, found: ContainerInfo, user: str, group: str) -> tuple[int, int]:
        accounts = await self._accounts(found, "/etc/passwd")
        entry = next((e for e in accounts if user in (e[0], e[2])), None) if accounts else None
        uid = int(user) if user.isdecimal() else int(entry[2] if entry else _unknown(user))
        if group and not group.isdecimal():
            groups = await self._accounts(found, "/etc/group")
            return uid, int(next((e[2] for e in groups if e[0] == group), None) or _unknown(group))
        return uid, int(group or (entry[3] if entry else 0))

    async def _accounts(self, found: ContainerInfo, path: str) -> list[list[str]]:
        with suppress(NotFound):
            data = await read_file(self._engine, found.id, path, limit=_ACCOUNTS)
            rows = (line.split(":") for line in data.decode("utf-8", "replace").splitlines())
            return [row for row in rows if len(row) >= 4]
        return []

    async def _give(self, found: ContainerInfo, path: str, uid: int, gid: int) -> None:
        entry = await find_folder(self._engine, found.id, path)
        if entry is None or entry.uid or entry.mode & 0o002 or (entry.gid == gid and entry.mode & 0o020):
            return
        await own_folder(self._engine, found.id, path, entry.mode, uid, gid)

    async def remove_all(self, session_id: str, found: ContainerInfo | None) -> None:
        """Remove the session's data. ``found`` is its container, whose volumes are known by name.

        Volumes of an earlier container have to be listed. If there is a container, this is not waited for long.
        """
        for name in found.volumes if found else ():
            if (body := await self._engine.find(f"/volumes/{name}")) and not self._other_owner(session_id, body):
                await self.remove(name)
        sweep = asyncio.create_task(self._sweep(session_id), name=_sweep_name(session_id))
        self._sweeps.add(sweep)
        sweep.add_done_callback(self._swept)
        if found is None:
            await asyncio.shield(sweep)
        elif (await asyncio.wait({sweep}, timeout=REST_PATIENCE))[0]:
            sweep.result()

    async def _sweep(self, session_id: str) -> None:
        wanted = [f"{labels.AGENT}={self._settings.agent_id}", f"{labels.SESSION}={session_id}"]
        answer = await self._engine.get("/volumes", {"filters": {"label": wanted}})
        for volume in answer.get("Volumes") or []:
            await self.remove(volume["Name"])

    async def _wait_for_sweeps(self, session_id: str) -> None:
        """Wait until an earlier stop has removed its volumes: it must not find the new ones."""
        if sweeps := [sweep for sweep in self._sweeps if sweep.get_name() == _sweep_name(session_id)]:
            await asyncio.wait(sweeps)

    def _swept(self, sweep: "asyncio.Task[None]") -> None:
        self._sweeps.discard(sweep)
        if not sweep.cancelled() and (error := sweep.exception()) is not None:
            known = isinstance(error, RuntimeDriverError | LeaseLost)
            log.warning("%s may be left behind: %s", sweep.get_name(), error, exc_info=None if known else error)

    async def undo(self, spec: SessionSpec, found: ContainerInfo | None) -> None:
        """Remove what the command created, and nothing that existed before."""
        names = self._made.pop(spec.command_id, set()) | set(found.volumes if found else ())
        for name in names:
            body = await self._engine.find(f"/volumes/{name}")
            if body and (body.get("Labels") or {}).get(labels.COMMAND) == spec.command_id:
                await self.remove(name)

    async def of_container(self, found: ContainerInfo) -> list[Mapping[str, Any]]:
        """The volumes of a container that were created by the same command."""
        bodies = [await self._engine.find(f"/volumes/{name}") for name in found.volumes]
        return [b for b in bodies if b and (b.get("Labels") or {}).get(labels.COMMAND) == found.command_id]

    async def remove(self, name: str) -> None:
        with suppress(NotFound):
            await self._engine.delete(f"/volumes/{name}")

    def close(self) -> None:
        for sweep in self._sweeps:
            sweep.cancel()


def _sweep_name(session_id: str) -> str:
    return f"volumes of {session_id}"


def _unknown(name: str) -> str:
    raise ValueError(f"the image has no account {name[:60]!r}")
