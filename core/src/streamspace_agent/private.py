"""Private files and folders: owned by the agent's user, writable by nobody else, and never reached by a symbolic link.

An agent often runs as root, in folders that an operator chose. Without these checks, somebody who planted a file or a
link there could make root write anywhere.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

MODE = 0o600
LINK = "it is a symbolic link, which is not followed: remove it"


def open_private(path: Path, flags: int, mode: int = MODE) -> int:
    """Open a private regular file, and create it if ``flags`` say so. Returns its descriptor.

    Raises OSError; for a file that is not private, a PermissionError whose text says what is wrong and how to fix it.
    Permissions beyond ``mode`` are removed.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.EMLINK and path.is_symlink()):
            raise _refusal(path, LINK) from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refusal(path, "it is not a regular file")
        if words := foreign(found):
            raise _refusal(path, words)
        if stat.S_IMODE(found.st_mode) & ~mode:
            os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def require_private(path: Path, *, create: bool = False) -> None:
    """Raise as :func:`open_private` does if a file is not private. With ``create``, make it if it is missing.

    Never opens an existing file: closing it would release every lock that this process holds on it, SQLite's included.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE))
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise _refusal(path, LINK)
    if not stat.S_ISREG(found.st_mode):
        raise _refusal(path, "it is not a regular file")
    if words := foreign(found):
        raise _refusal(path, words)
    if found.st_mode & 0o077:
        path.chmod(MODE)


def private_folder(path: Path) -> None:
    """Make a folder if it is missing. Raises OSError as :func:`open_private` does if it is not private."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise _refusal(
            path, "it is a symbolic link, which is not followed: remove it, or name the folder it stands for"
        )
    if words := foreign(found):
        raise _refusal(path, words)


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read: completely, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def foreign(found: os.stat_result) -> str:
    """Why others can write to a file or folder, with the fix; "" if only this user can."""
    me = os.geteuid()
    if found.st_uid != me:
        return f"it belongs to user {found.st_uid}, and the agent is user {me}: give it to that one, or remove it"
    if found.st_mode & 0o022:
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o}): chmod go-w"
    return ""


def _refusal(path: Path, words: str) -> PermissionError:
    return PermissionError(errno.EPERM, words, str(path))
