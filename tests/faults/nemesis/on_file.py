"""Three replicas of one host that share a lock file, on a small file system of its own."""

import asyncio
import signal
import subprocess

from lab.proxy import Proxy
from streamspace_agent.health.replicas import replicas
from tests.faults.nemesis.faults import (
    CHANGE,
    CROWD,
    EITHER,
    FORK,
    HANDOVER,
    KILL,
    NO_CHANGE,
    Fault,
    block,
    freeze,
    leader_gets,
    thaw,
)
from tests.faults.nemesis.stage import Process, Stage


class FileStage(Stage):
    backend = "file"

    async def begin(self, stack):
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "nemesis", self.disk]
        await asyncio.to_thread(subprocess.run, mount, check=True)
        stack.callback(subprocess.run, ["umount", "-l", self.disk], check=True)
        self.lock = self.disk / "run" / "agent.lock"
        for name in ("a", "b", "c"):
            way = stack.enter_context(Proxy(self.plane.port))
            variables = self.variables(name) | {
                "CONTROL_PLANE_URL": f"ws://127.0.0.1:{way.port}",
                "LOCK_FILE_PATH": str(self.lock),
                "STATE_DIR": str(self.disk / "state"),
            }
            replica = Process(self, name, variables)
            replica.way = way
            self.replicas.append(replica)
            stack.push_async_callback(replica.close)


async def delete(stage):
    stage.lock.unlink()


async def replace(stage):
    copy = stage.lock.with_name("copy")
    copy.write_bytes(stage.lock.read_bytes())
    copy.rename(stage.lock)


async def remove_folder(stage):
    stage.lock.unlink()
    stage.lock.parent.rmdir()


async def truncate(stage):
    stage.lock.write_bytes(b"")


async def fill(stage):
    with (stage.disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 65536):
                pass
        except OSError:
            return


async def empty(stage):
    (stage.disk / "filler").unlink()


async def thaw_after_the_alarm(stage):
    """The kernel keeps a frozen leader's lock: the others say so, in logs and status."""
    told = await asyncio.to_thread(_status, stage)
    await thaw(stage)
    for replica in stage.standbys:
        assert f"{stage.leader.instance} leads {stage.agent_id} (epoch" in replica.log
        assert "has shown no sign of life" in replica.log
    alarms = [document for document in told if "has shown no sign of life" in " ".join(document.get("problems", []))]
    assert len(alarms) == len(stage.standbys)
    assert all(document["election"]["leader_frozen"] for document in alarms)


def _status(stage):
    """What each replica tells of itself; {} for the frozen one."""
    return [found.document or {} for found in replicas(stage.disk / "state" / stage.agent_id)]


async def cut_from_plane(stage):
    """Only the leader has lost its way to the control plane: it lets another lead, which has one."""
    stage.leader.way.refusing = True
    stage.leader.way.cut()


async def join_plane(stage):
    for replica in stage.replicas:
        replica.way.refusing = False


async def fill_and_kill(stage):
    await fill(stage)
    stage.leader.signal(signal.SIGKILL)


FAULTS = [
    KILL,
    HANDOVER,
    CROWD,
    FORK,
    freeze(2, NO_CHANGE),
    Fault("frozen for 12 s, and told of", NO_CHANGE, leader_gets(signal.SIGSTOP), thaw_after_the_alarm, lasts=12),
    block(3, NO_CHANGE),
    block(20, CHANGE, quick=False),
    Fault("leader cut off from the control plane", CHANGE, cut_from_plane, join_plane, quick=False),
    Fault("lock file deleted", CHANGE, delete),
    Fault("lock file replaced by a copy", CHANGE, replace),
    Fault("lock file emptied", NO_CHANGE, truncate, lasts=3),
    Fault("lock file's folder removed", CHANGE, remove_folder),
    Fault("disk full", NO_CHANGE, fill, empty, lasts=3),
    Fault("SIGKILL on a full disk", EITHER, fill_and_kill, empty, lasts=3),
]
