"""Reads and writes files in containers through tar archives. What a container returns is never trusted."""

import io
import posixpath
import tarfile

from streamspace_engine import Engine


async def read_file(engine: Engine, container: str, path: str, *, limit: int) -> bytes:
    """The content of a regular file; b"" for a folder, a link or more than ``limit`` bytes. Raises EngineError."""
    try:
        with tarfile.open(fileobj=io.BytesIO(await _archive(engine, container, path, limit)), mode="r:") as tar:
            info = tar.next()
            file = tar.extractfile(info) if info and info.isreg() and not info.sparse and info.size <= limit else None
            return file.read(limit) if file else b""
    except (tarfile.TarError, OSError, ValueError):
        return b""


async def write_file(engine: Engine, container: str, path: str, content: bytes, mode: int) -> None:
    """Write a file that belongs to root. Raises EngineError."""
    info = tarfile.TarInfo(posixpath.basename(path))
    info.size, info.mode = len(content), mode
    await _put(engine, container, posixpath.dirname(path), info, content)


async def find_folder(engine: Engine, container: str, path: str) -> tarfile.TarInfo | None:
    """Owner and mode of a folder; None for anything else. Raises EngineError."""
    try:
        with tarfile.open(fileobj=io.BytesIO(await _archive(engine, container, path, 0)), mode="r:") as tar:
            info = tar.next()
            return info if info and info.isdir() else None
    except (tarfile.TarError, OSError, ValueError):
        return None


async def own_folder(engine: Engine, container: str, path: str, mode: int, uid: int, gid: int) -> None:
    """Give a folder to a user. Raises EngineError."""
    # Through its parent folder: the engine ignores owner and mode of an archive's root.
    parent, name = posixpath.split(posixpath.normpath(path))
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, uid, gid
    await _put(engine, container, parent, info)


async def _archive(engine: Engine, container: str, path: str, limit: int) -> bytes:
    """The beginning of an archive: its first header, even with a long name, and ``limit`` bytes of the first file."""
    wanted = limit + 4 * tarfile.RECORDSIZE
    return await engine.raw(f"/containers/{container}/archive", {"path": path}, limit=wanted)


async def _put(engine: Engine, container: str, folder: str, info: tarfile.TarInfo, content: bytes = b"") -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(info, io.BytesIO(content))
    await engine.put(f"/containers/{container}/archive", buffer.getvalue(), {"path": folder})
