"""A session's volumes: made, given to the session's user, and found again by their names.

Never by asking for all volumes where it can be helped: the engine asks every volume plugin then, and waits 15 s for a dead one.
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
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.archives import find_folder, own_folder, read_file
from streamspace_runtime_docker.containers import volume_name
from streamspace_runtime_docker.found import Found

log = logging.getLogger(__name__)

REST_PATIENCE = 1.0
"""Seconds that a stop waits for volumes of a session which its present container does not use; they go all the same, later."""
_ACCOUNTS = 256 * 1024
"""Bytes of an image's /etc/passwd and /etc/group that are read."""


class Volumes:
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._made: dict[str, set[str]] = {}
        """Names by the command that made them, until it is known how that ended."""
        self._sweeps: set[asyncio.Task[None]] = set()

    async def make(self, spec: SessionSpec, mount: Mount) -> None:
        """An existing volume of the session is used as it is; the engine answers with its labels."""
        await self._swept_before(spec.session_id)
        name = volume_name(spec.session_id, mount.name)
        marks = labels.of_session(self._settings.agent_id, spec) | {labels.VOLUME: mount.name}
        try:
            body = await self._engine.post(
                "/volumes/create", {"Name": name, "Driver": self._settings.volume_driver, "Labels": marks}
            )
        except EngineError as error:
            # Podman refuses, in several wordings, one that another start makes at this moment; Docker gives it to both.
            try:
                body = await self._engine.get(f"/volumes/{name}")
            except NotFound:
                raise CommandFailed("volume_failed", f"cannot create the volume {name}: {error.text}") from error
        if owner := self._stranger(spec.session_id, body, spec.user):
            raise CommandFailed(
                "volume_taken",
                f"the volume {name} belongs to {owner}: remove or rename it, or use another session id",
            )
        if (body.get("Labels") or {}).get(labels.COMMAND) == spec.command_id:
            self._made.setdefault(spec.command_id, set()).add(name)

    def _stranger(self, session_id: str, volume: Mapping[str, Any], user: str | None = None) -> str:
        """Whose the volume is, where that is not the session's: what is on it is not for other people's eyes."""
        marks = volume.get("Labels") or {}
        if not marks and volume.get("Scope") == "global":
            return ""  # another host's agent made it, and the engine keeps labels to itself: its name has to do
        if (session := marks.get(labels.SESSION)) != session_id:
            return f"the session {session}" if session else "no session"
        if (agent := marks.get(labels.AGENT)) != self._settings.agent_id:
            return f"the agent {agent}"
        owner = marks.get(labels.USER)
        return "" if user is None or owner == user else f"the user {owner!r}"

    def settled(self, spec: SessionSpec) -> None:
        """The command's volumes are in use: nothing undoes them any more."""
        self._made.pop(spec.command_id, None)

    async def own(self, spec: SessionSpec, found: Found) -> None:
        """Give the volumes that this command made to the user of the image, where they are root's: the image has no such folder.

        The engine makes them root's, and copies the folder's owner where the image has one.
        """
        user, _, group = found.user.partition(":")
        if not spec.mounts or user in {"", "0", "root"}:
            return
        try:
            uid, gid = await self._ids(found, user, group)
            for mount in spec.mounts:
                body = await self._look(volume_name(spec.session_id, mount.name)) or {}
                if (body.get("Labels") or {}).get(labels.COMMAND) == spec.command_id:
                    await self._give(found, mount.path, uid, gid)
        except (EngineError, ValueError) as error:
            log.warning("%s: cannot give its volumes to its user %s: %s", found.name, found.user, error)

    async def _ids(self, found: Found, user: str, group: str) -> tuple[int, int]:
        accounts = await self._accounts(found, "/etc/passwd")
        entry = next((e for e in accounts if user in (e[0], e[2])), None) if accounts else None
        uid = int(user) if user.isdecimal() else int(entry[2] if entry else _unknown(user))
        if group and not group.isdecimal():
            groups = await self._accounts(found, "/etc/group")
            return uid, int(next((e[2] for e in groups if e[0] == group), None) or _unknown(group))
        return uid, int(group or (entry[3] if entry else 0))

    async def _accounts(self, found: Found, path: str) -> list[list[str]]:
        with suppress(NotFound):
            data = await read_file(self._engine, found.id, path, limit=_ACCOUNTS)
            rows = (line.split(":") for line in data.decode("utf-8", "replace").splitlines())
            return [row for row in rows if len(row) >= 4]
        return []

    async def _give(self, found: Found, path: str, uid: int, gid: int) -> None:
        entry = await find_folder(self._engine, found.id, path)
        if entry is None or entry.uid or entry.mode & 0o002 or (entry.gid == gid and entry.mode & 0o020):
            return
        await own_folder(self._engine, found.id, path, entry.mode, uid, gid)

    async def remove_all(self, session_id: str, found: Found | None) -> None:
        """Remove the session's data. ``found`` is its container, whose volumes are known by name.

        Volumes of an earlier one have to be looked for among all that the engine has; where there is a container, nobody waits
        long for that.
        """
        for name in found.volumes if found else ():
            if (body := await self._look(name)) and not self._stranger(session_id, body):
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

    async def _swept_before(self, session_id: str) -> None:
        """What an earlier stop has yet to find is neither to be used again nor to be taken for what is made now."""
        if sweeps := [sweep for sweep in self._sweeps if sweep.get_name() == _sweep_name(session_id)]:
            await asyncio.wait(sweeps)

    def _swept(self, sweep: "asyncio.Task[None]") -> None:
        self._sweeps.discard(sweep)
        if not sweep.cancelled() and (error := sweep.exception()) is not None:
            known = isinstance(error, RuntimeDriverError | LeaseLost)
            log.warning("%s may be left behind: %s", sweep.get_name(), error, exc_info=None if known else error)

    async def undo(self, spec: SessionSpec, found: Found | None) -> None:
        """Remove what the command made, and nothing that was there before."""
        names = self._made.pop(spec.command_id, set()) | set(found.volumes if found else ())
        for name in names:
            body = await self._look(name)
            if body and (body.get("Labels") or {}).get(labels.COMMAND) == spec.command_id:
                await self.remove(name)

    async def of(self, found: Found) -> list[Mapping[str, Any]]:
        """The volumes of a container that the same command made, as the engine shows them."""
        bodies = [await self._look(name) for name in found.volumes]
        return [b for b in bodies if b and (b.get("Labels") or {}).get(labels.COMMAND) == found.command_id]

    async def _look(self, name: str) -> Mapping[str, Any] | None:
        try:
            body: Mapping[str, Any] = await self._engine.get(f"/volumes/{name}")
        except NotFound:
            return None
        return body

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
