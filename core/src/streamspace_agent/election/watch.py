"""When a candidate may take the lease: the rules, without any waiting or calling of their own."""

import math
from enum import StrEnum
from typing import Literal

from streamspace_agent.election import Record
from streamspace_agent.election.lease import RATE_ERROR


class Opening(StrEnum):
    """Why the lease was free to take; a label of the metrics."""

    RELEASED = "released"
    """The holder said that it had stopped."""
    CERTIFIED_DEATH = "certified_death"
    """The store proved that the holder's process is gone."""
    RAN_OUT = "ran_out"
    """This replica watched the holder's whole lease pass without a renewal."""
    NO_RECORD = "no_record"
    """A new or emptied store, watched for a whole lease: somebody it has forgotten may still have led."""
    OWN = "own"
    """The record is this process's own, left by a lost answer or a failed release; its work has stopped."""
    KERNEL = "kernel"
    """The store ends a lease with its process, and let us in."""


class Watch:
    """Watches one record through its lease, on this replica's own clock.

    The count starts *after* the observation that first showed the record as it stands: the renewal it shows may
    have been made at any moment before the answer. Any difference at all starts it anew, the store's revision included:
    a store that comes back from an old copy may show a sequence that its leader had left behind.
    """

    def __init__(self, nonce: str, lease: float | None) -> None:
        self._nonce = nonce
        self._lease = lease
        self._longest = lease or 0.0
        self._record: Record | None = None
        self._since = -math.inf
        self._looked = False

    @property
    def record(self) -> Record | None:
        return self._record

    def see(self, record: Record | None, now: float) -> bool:
        """Note what an observation that ended at ``now`` showed; True if it differs from the last."""
        if self._looked and record == self._record:
            return False
        self._looked, self._record, self._since = True, record, now
        if record:
            self._longest = max(self._longest, record.lease_ms / 1000)
        return True

    def silence(self, now: float) -> float:
        """Seconds since the record was seen to change."""
        return now - self._since if self._looked else 0.0

    def remaining(self, now: float) -> float:
        """Seconds until the record has been watched through its lease; 0 when it has."""
        # A record without a lease of its own in a store that needs one says nothing: ours is the measure.
        lease = (self._record.lease_ms / 1000 if self._record else self._longest) or self._longest
        return max(0.0, lease * (1 + RATE_ERROR) - self.silence(now))

    def opening(self, now: float, *, dead: Literal[True, False] | None = None) -> Opening | None:
        """Why the lease may be taken at ``now``, or None. ``dead`` is the store's word on the record's holder."""
        if not self._looked:
            return None
        if self._lease is None:
            if self._record is None:
                return Opening.NO_RECORD
            return Opening.RELEASED if self._record.released else Opening.KERNEL
        if self._record is not None:
            if self._record.released:
                return Opening.RELEASED
            if self._record.nonce.startswith(self._nonce):
                return Opening.OWN
            if dead is True:
                return Opening.CERTIFIED_DEATH
        if self.remaining(now) > 0:
            return None
        return Opening.RAN_OUT if self._record else Opening.NO_RECORD
