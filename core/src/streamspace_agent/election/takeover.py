"""The rules that say when a candidate may take the lease. They neither wait nor call anything."""

import math
from enum import StrEnum
from typing import Literal

from streamspace_agent.election import Record
from streamspace_agent.election.lease import RATE_ERROR


class GainReason(StrEnum):
    """Why the lease was free to take; a label of the metrics."""

    RELEASED = "released"
    """The holder released it after it had stopped."""
    CERTIFIED_DEATH = "certified_death"
    """The store proved that the holder's process has ended."""
    RAN_OUT = "ran_out"
    """This replica watched the holder's whole lease pass without a renewal."""
    NO_RECORD = "no_record"
    """A new or emptied store, watched for a whole lease: a leader that it has forgotten may still have led."""
    OWN = "own"
    """The record is this process's own, left by a lost answer or a failed release; its work has stopped."""
    KERNEL = "kernel"
    """The store ends a lease with its process, and granted the lock."""


class RecordWatch:
    """Watches one record through its lease, on this replica's own clock.

    The count starts *after* the observation that first showed the record in its present state: the renewal that it
    shows may have been made at any moment before the answer. Any difference restarts the count, the store's revision
    included: a store restored from an old copy may show a sequence that its leader has already passed.
    """

    def __init__(self, own_nonces: str, lease: float | None) -> None:
        """``own_nonces`` is what the nonces of this process begin with; ``lease`` is its own lease in seconds."""
        self._own_nonces = own_nonces
        self._lease = lease
        self._longest = lease or 0.0
        self.record: Record | None = None
        self._since = -math.inf
        self._observed = False

    def see(self, record: Record | None, now: float) -> bool:
        """Note what an observation that ended at ``now`` showed; True if it differs from the last one."""
        if self._observed and record == self.record:
            return False
        self._observed, self.record, self._since = True, record, now
        if record:
            self._longest = max(self._longest, record.lease_ms / 1000)
        return True

    def silence(self, now: float) -> float:
        """Seconds since the record last changed."""
        return now - self._since if self._observed else 0.0

    def remaining(self, now: float) -> float:
        """Seconds until the record has been watched through its lease; 0 when it has."""
        # A record without a lease of its own in a store that needs one: this replica's lease is the measure.
        lease = (self.record.lease_ms / 1000 if self.record else self._longest) or self._longest
        return max(0.0, lease * (1 + RATE_ERROR) - self.silence(now))

    def free_because(self, now: float, *, dead: Literal[True, False] | None = None) -> GainReason | None:
        """Why the lease may be taken at ``now``, or None. ``dead`` is what the store says about the record's holder."""
        if not self._observed:
            return None
        if self._lease is None:
            if self.record is None:
                return GainReason.NO_RECORD
            return GainReason.RELEASED if self.record.released else GainReason.KERNEL
        if self.record is not None:
            if self.record.released:
                return GainReason.RELEASED
            if self.record.nonce.startswith(self._own_nonces):
                return GainReason.OWN
            if dead is True:
                return GainReason.CERTIFIED_DEATH
        if self.remaining(now) > 0:
            return None
        return GainReason.RAN_OUT if self.record else GainReason.NO_RECORD
