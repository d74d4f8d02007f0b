"""Checks that every replica can see and write the lock file, and that one kernel alone grants its lock."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamspace_agent.election import Problem
from streamspace_agent.election.identity import container_id
from streamspace_agent.private import foreign

VARIABLE = "LOCK_FILE_PATH"

# File systems on which flock may be granted twice: by a server, by another guest's kernel, or by a program that
# ignores it. fakeowner and virtiofs are Docker Desktop's bind mounts.
_SHARED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "coda", "lustre", "gfs2", "ocfs2"}
    | {"virtiofs", "fakeowner", "vboxsf", "prl_fs", "vmhgfs", "fuse", "fuseblk"}
)


@dataclass(frozen=True, slots=True)
class Mount:
    root: str
    point: str
    kind: str
    source: str


def mounts(table: str) -> Iterator[Mount]:
    """The entries of a mountinfo table, proc(5)."""
    for line in table.splitlines():
        left, mark, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if mark and len(fields) > 4 and len(kinds) > 1:
            yield Mount(_plain(fields[3]), _plain(fields[4]), kinds[0], _plain(kinds[1]))


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mount_of(path: Path, table: str) -> Mount | None:
    """The most specific mount above a resolved path. Of two at one point it is the later, which covers the other."""
    above = [mount for mount in mounts(table) if path.is_relative_to(mount.point)]
    return max(reversed(above), key=lambda mount: len(mount.point), default=None)


def in_container(table: str, root: Path = Path("/")) -> bool:
    """Whether the kernel's tables say so, or a marker on an overlay: a disk made from an image holds the marker too."""
    top = mount_of(Path("/"), table)
    marked = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    return bool(container_id()) or (marked and top is not None and top.kind in {"overlay", "fuse.fuse-overlayfs"})


def problems(path: Path) -> list[Problem]:
    """Everything that is wrong with a lock file at this path, on this host as it is now."""
    if path.is_symlink():
        return [Problem(f"{VARIABLE}: {path} is a symbolic link, which is not followed", "remove it, or name the file")]
    path = path.resolve()
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [*mount_problems(path, mount_of(path, table), contained=in_container(table)), *access_problems(path)]


def mount_problems(path: Path, mount: Mount | None, *, contained: bool) -> Iterator[Problem]:
    """What is wrong with the file system at the path."""
    if mount is None:
        return
    if mount.kind in _SHARED or mount.kind.startswith("fuse."):
        yield Problem(
            f"{VARIABLE}: {path} is on {mount.kind} ({mount.source}), where two hosts can both get the lock",
            f"set {VARIABLE} to a file on a local disk, or LEADER_ELECTION_BACKEND=redis for replicas on several hosts",
        )
    elif contained and mount.point == "/":
        yield Problem(
            f"{VARIABLE}: {path} is in this container's own layer ({mount.kind}), which no other replica sees: "
            "each would lead",
            f"mount one volume or host folder into every replica at {path.parent}",
        )
    elif contained and mount.kind == "tmpfs" and mount.root == "/":
        yield Problem(
            f"{VARIABLE}: {path} is on a tmpfs at {mount.point}: if it is this container's own, each would lead",
            f"mount one volume or host folder into every replica at {path.parent}",
            fatal=False,
        )


def access_problems(path: Path) -> Iterator[Problem]:
    """What keeps this user from creating and writing the file. Changes nothing."""
    try:
        found = path.stat()
    except FileNotFoundError:
        yield from _folder_problems(path)
        return
    except OSError as error:
        yield Problem(f"{VARIABLE}: cannot read {path}: {error.strerror}", f"let {_user()} enter {path.parent}")
        return
    if not stat.S_ISREG(found.st_mode):
        yield Problem(f"{VARIABLE}: {path} is not a regular file", f"set {VARIABLE} to the path of a file")
    elif not os.access(path, os.R_OK | os.W_OK):
        yield Problem(
            f"{VARIABLE}: {path} cannot be written by {_user()}{_read_only(path)}",
            "run every replica as the same user, or give the file to it",
        )
    elif words := foreign(found):
        # Root may only be running a check, for an agent that runs as another user.
        yield Problem(f"{VARIABLE}: {path}: {words}", "run every replica as the same user", fatal=os.geteuid() != 0)


def _folder_problems(path: Path) -> Iterator[Problem]:
    folder = path.parent if path.parent.exists() else path.parent.parent
    if not folder.exists():
        yield Problem(
            f"{VARIABLE}: {path} cannot be created: there is no folder {folder}",
            f"check the path; if it is right, create the folder: install -d -o {os.geteuid()} {path.parent}",
        )
    elif not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield Problem(
            f"{VARIABLE}: {path} cannot be created: {folder} is not a folder that {_user()} may write to"
            f"{_read_only(folder)}",
            f"create the folder and give it to the agent: install -d -o {os.geteuid()} {path.parent}",
        )


def _read_only(path: Path) -> str:
    return " (read-only file system)" if os.statvfs(path).f_flag & os.ST_RDONLY else ""


def _user() -> str:
    return f"user {os.geteuid()}"
