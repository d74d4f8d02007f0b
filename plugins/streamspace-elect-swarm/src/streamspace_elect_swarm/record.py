"""The lease's record as a config object: its name and its labels."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from streamspace_agent.election import Record
from streamspace_elect_swarm.errors import Hopeless

PREFIX = "streamspace-leader-"
# swarmkit, manager/controlapi/secret.go: a config's name has at most 64 of these and ends with a letter or digit.
MAX_NAME = 64
_WHOLE = re.compile(r"[A-Za-z0-9._-]*[A-Za-z0-9]")

DATA = "The lease of a StreamSpace agent. Its record is in this config's labels.\n"
"""An engine refuses a config without data; only its labels can be changed later."""


def config_name(agent_id: str) -> str:
    """``streamspace-leader-<AGENT_ID>``, shortened and with a hash if the Swarm would not accept that."""
    name = PREFIX + agent_id
    if len(name) <= MAX_NAME and _WHOLE.fullmatch(name):
        return name
    digest = hashlib.sha256(agent_id.encode()).hexdigest()[:12]
    return f"{name[: MAX_NAME - len(digest) - 1]}-{digest}"


@dataclass(frozen=True, slots=True)
class TaskRecord(Record):
    """``task`` is the Swarm task that holds the lease; ``revision`` is ``<config id>/<version>``."""

    task: str = ""

    @property
    def version(self) -> int:
        return int(self.revision.partition("/")[2] or 0)

    def labels(self) -> dict[str, str]:
        return {
            "streamspace.agent": self.agent_id,
            "streamspace.leader": self.holder,
            "streamspace.epoch": str(self.epoch),
            "streamspace.task": self.task,
            "streamspace.container": self.container_id,
            "streamspace.host": self.host,
            "streamspace.since": self.since,
            "streamspace.released": "true" if self.released else "false",
            "streamspace.lease-ms": str(self.lease_ms),
            "streamspace.sequence": str(self.sequence),
            "streamspace.nonce": self.nonce,
        }

    @classmethod
    def parse(cls, config: Mapping[str, Any], agent_id: str) -> Self:
        """Read a config. Raises Hopeless if no agent of this id wrote it."""
        name = config["Spec"]["Name"]
        fix = f"remove it with 'docker config rm {name}'"
        labels = config["Spec"].get("Labels") or {}
        if labels.get("streamspace.agent") != agent_id:
            raise Hopeless(f"the config {name} is not the lease of AGENT_ID={agent_id}", fix)
        try:
            return cls(
                agent_id=agent_id,
                holder=labels["streamspace.leader"],
                nonce=labels["streamspace.nonce"],
                epoch=int(labels["streamspace.epoch"]),
                sequence=int(labels["streamspace.sequence"]),
                lease_ms=int(labels["streamspace.lease-ms"]),
                released=labels["streamspace.released"] == "true",
                host=labels["streamspace.host"],
                container_id=labels["streamspace.container"],
                since=labels["streamspace.since"],
                revision=f"{config['ID']}/{config['Version']['Index']}",
                task=labels["streamspace.task"],
            )
        except (KeyError, ValueError) as error:
            raise Hopeless(f"the labels of the config {name} cannot be read ({error})", fix) from error
