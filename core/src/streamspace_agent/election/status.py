"""What the elector reports about itself: for ``docker-agent status --json`` and the metrics."""

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from streamspace_agent.clock import Clock
from streamspace_agent.election import Record
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.role import Role
from streamspace_agent.election.takeover import GainReason

SILENCE_ALARM = 10.0
"""Seconds without a sign of life after which a leader that a kernel lock keeps in place is worth an alarm."""


@dataclass(frozen=True, slots=True)
class ElectionStatus:
    """The state of one replica's election.

    * ``leader``: the instance known to lead, "" for none; ``since``: Unix time in seconds of its last change
    * ``leader_silence``: seconds since a standby last saw the leader renew; ``leader_frozen``: it has been silent for
      so long that it must be frozen, and the store keeps it in place
    * ``renewed_age``: seconds since a leader's own last confirmed renewal was sent
    * ``store_error``: why the store is unavailable now, "" while it answers
    """

    role: Role = Role.STARTING
    leader: str = ""
    epoch: int = 0
    since: float = 0.0
    gained: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    seconds_as_leader: float = 0.0
    store_error: str = ""
    renewed_age: float | None = None
    leader_silence: float = 0.0
    leader_frozen: bool = False


class StatusRecorder:
    """Collects the status; written by the elector's thread, read from any."""

    def __init__(self, clock: Clock, lease: float | None) -> None:
        self._clock = clock
        # Where leases run out, a silent leader is soon replaced.
        self._silence_alarm = SILENCE_ALARM if lease is None else math.inf
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._standing = False
        self._known = ElectionStatus(since=clock.wall_ms() / 1000)
        """Without what depends on the moment."""
        self._gained: Counter[str] = Counter({reason.value: 0 for reason in GainReason})
        self._lost: Counter[str] = Counter({ending.value: 0 for ending in Ending})

    def standing(self, standing: bool) -> None:
        """Whether this replica stands for election."""
        self._standing = standing

    def saw(self, record: Record | None, silence: float) -> None:
        leader = record.holder if record and not record.released else ""
        with self._lock:
            self._known = replace(self._known, leader_silence=silence if leader else 0.0)
            if record and (leader, record.epoch) != (self._known.leader, self._known.epoch):
                self._change(leader, record.epoch)

    def gained(self, lease: Lease, reason: GainReason) -> None:
        with self._lock:
            self._lease = lease
            self._gained[reason.value] += 1
            self._known = replace(self._known, leader_silence=0.0)
            self._change(lease.record.holder, lease.epoch)

    def lost(self, lease: Lease) -> None:
        """Counted once, when the lease is over, even if the work goes on for a moment."""
        with self._lock:
            if lease.ending is not None:
                self._lost[lease.ending.value] += 1
                self._change("", lease.epoch)

    def stopped(self, lease: Lease) -> None:
        with self._lock:
            if self._lease is lease:
                self._known = replace(self._known, seconds_as_leader=self._seconds(lease))
                self._lease = None

    def _change(self, leader: str, epoch: int) -> None:
        self._known = replace(self._known, leader=leader, epoch=epoch, since=self._clock.wall_ms() / 1000)

    def _seconds(self, lease: Lease) -> float:
        led = min(self._clock.now(), lease.ended_at, lease.deadline) - lease.began
        return self._known.seconds_as_leader + max(0.0, led)

    def snapshot(self, *, store_error: str) -> ElectionStatus:
        with self._lock:
            lease = self._lease
            if lease is None:
                role = Role.STANDBY if self._standing else Role.STARTING
            else:
                role = Role.LEADER if lease.valid() else Role.DRAINING
            return replace(
                self._known,
                role=role,
                gained=dict(self._gained),
                lost=dict(self._lost),
                seconds_as_leader=self._seconds(lease) if lease else self._known.seconds_as_leader,
                store_error=store_error,
                renewed_age=self._clock.now() - lease.renewed_at if lease else None,
                leader_frozen=self._known.leader_silence >= self._silence_alarm,
            )
