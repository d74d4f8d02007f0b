"""The contract between the core and an election backend.

The core owns all timing (:mod:`streamspace_agent.election.elector`); a backend only makes atomic steps on its store and tells
three outcomes apart: yes, no (:exc:`~streamspace_agent.errors.LeaseLost`, or :class:`Held`), and cannot tell
(:exc:`~streamspace_agent.errors.BackendUnavailable`). Answering "no" for "cannot tell" costs a working leader its
lease; answering "yes" for it makes two leaders.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding of a preflight or of ``docker-agent check``.

    ``fatal`` problems do not heal by waiting (a worker instead of a manager, a lock file on NFS); the others are
    warnings. ``message`` says what is wrong, ``fix`` what to do; both name the variable concerned.
    """

    message: str
    fix: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """A lease's numbers in seconds (sources: the table of defaults in the election documentation of each backend).

    * ``lease``: how long a record that nobody renews keeps others out; a watcher counts it on its own clock, 1 % long. None
      where the store itself ends a lease with the process (a kernel lock): then ``renew_every`` is how often the holder
      checks that it still holds what it thinks it holds.
    * ``renew_every``: from one renewal to the next. A standby looks :data:`~streamspace_agent.election.campaign.LOOKS_PER_RENEWAL`
      times in it.
    * ``call_timeout``: after so long the core cancels a call. Also how long a call may block its thread.
    * ``margin``: a leader stops acting so long before its lease is over, counted from when its last confirmed renewal was *sent*,
      on a clock taken to be 1 % slow: what was begun until then has so long to come to its end.

    :func:`streamspace_agent.election.timing.scaled` makes them of ``LEASE_DURATION`` and ``LEASE_PROFILE``;
    :func:`streamspace_agent.election.timing.check` refuses them unless ``factor`` renewals, each as slow as allowed, fit into
    ``lease - margin``. A factor of 2 rides out one renewal that is lost, the least that the suite accepts; take 3 where
    answers are lost now and then though the store is well (packets of a network, a server that restarts).
    """

    lease: float | None
    renew_every: float
    call_timeout: float
    margin: float


class Guarantee(Enum):
    """What a backend promises; shown by ``docker-agent check`` and in its documentation."""

    ONE_HOST = "one host only"
    MANY_HOSTS = "many hosts"
    SURVIVES_STORE_LOSS = "epochs survive the loss of the store"
    PUSHES_WAKEUPS = "a waiter is woken by the store"
    ENDS_BY_ITSELF = "the lease ends with the process, without a clock"
    CERTIFIES_DEATH = "the death of a holder can be proved"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who asks for the lease.

    ``instance`` is readable and unique among live replicas; ``nonce`` is new for every process start and every wish
    to lead; ``host``
    and ``container_id`` (full id, or empty outside a container) let another replica look the holder up.
    ``lease`` is this replica's own lease in seconds, or None. ``epoch_floor`` is what the new epoch must exceed:
    the highest epoch this replica has ever seen or the wall clock in ms, whichever is larger.
    """

    agent_id: str
    instance: str
    nonce: str
    host: str
    container_id: str
    lease: float | None
    epoch_floor: int


@dataclass(frozen=True, slots=True)
class Record:
    """What the store says of the lease.

    ``sequence`` rises with every renewal; ``lease_ms`` is the *holder's* lease in milliseconds (0: it ends by
    itself); ``released`` says that the holder gave it up and stopped before it said so. ``revision`` is opaque
    to the core: the backend compares it in :meth:`ElectionBackend.acquire` to see that nothing has changed since.
    ``since`` is wall-clock text for people only.
    """

    agent_id: str
    holder: str
    nonce: str
    epoch: int
    sequence: int
    lease_ms: int
    released: bool = False
    host: str = ""
    container_id: str = ""
    since: str = ""
    revision: str = ""

    def same_tenure(self, other: "Record | None") -> bool:
        """The same holder in the same epoch, renewed or not."""
        return other is not None and (self.nonce, self.epoch) == (other.nonce, other.epoch)


@dataclass(frozen=True, slots=True)
class Grant:
    """The lease is ours: ``record`` as written. ``token`` is the backend's own (a descriptor, a version)."""

    record: Record
    token: object = None


@dataclass(frozen=True, slots=True)
class Held:
    """The lease is somebody else's, or the store changed under us: ``record`` is what stands there now."""

    record: Record | None


class ElectionBackend(ABC):
    """One lease for one agent id in one store.

    Every method is called from the elector's own event loop and thread, one at a time except that
    :meth:`wait_change` may run beside :meth:`observe` and :meth:`holder_is_dead`. Each is given
    ``timing.call_timeout`` by the core, :meth:`wait_change` its own timeout; :meth:`preflight` 5 s, or ``call_timeout`` where
    that is longer. Any exception but those named counts as "cannot tell".

    Cancellation is prompt: the call ends at once, with the CancelledError and whatever the store does, and begins nothing more.
    A client library that retries, says goodbye to a silent server or turns a cancellation into an error of its own must be
    kept from it, for the core cancels when there is no time left. The backend stays usable, and the next call may
    find the cancelled one done or not done. A call may block its thread for ``call_timeout`` at most, :meth:`wait_change` not at all.

    Names are as long as the store must be able to keep: an agent id has 3 to 100 letters, digits, dots, dashes and
    underscores, in which case counts; an instance has up to 100 characters, a nonce up to 40, a host 64, a container id 64; epochs are
    milliseconds of Unix time and need 64 bits.
    """

    name: ClassVar[str]
    guarantees: ClassVar[frozenset[Guarantee]]

    @property
    @abstractmethod
    def timing(self) -> Timing:
        """The numbers in force, after ``LEASE_DURATION`` and the profile. Constant for the object's life."""

    @abstractmethod
    async def preflight(self) -> list[Problem]:
        """Check that the store can carry a lease at all. Called at start and by ``docker-agent check``.

        Must change nothing and create nothing, neither a file nor a table: ``docker-agent check`` runs it as root, perhaps, whose
        file the agent could not open. Raise ``BackendUnavailable`` when the store cannot be reached (it may heal), with a
        message that names the variable: ``check`` shows it as it is.
        """

    @abstractmethod
    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        """Take the lease in one atomic step if the store still shows exactly ``seen``.

        ``seen`` is what the core has observed and found free to take (released, certified dead, run out by the
        core's own watch), or None for a store without a record. A store that ends leases by itself (flock) takes the lock if it
        can and ignores ``seen``. The new epoch is ``max(stored epoch, me.epoch_floor) + 1``.
        Returns :class:`Grant`, or :class:`Held` when another record stands there. Raises ``BackendUnavailable``
        when the outcome is unknown: the lease may have been taken, and the same call again by the same nonce
        must then return the Grant. Raises ``PreflightError`` for what time does not heal: the agent ends with it.
        """

    @abstractmethod
    async def renew(self, grant: Grant) -> Grant:
        """Extend the lease in one atomic step if it is still this grant's. Called every ``timing.renew_every``.

        Returns the grant to renew next. Raises ``LeaseLost`` when the store shows another holder, another
        epoch or no record; ``BackendUnavailable`` when it cannot tell. Must never write over another's record.
        """

    @abstractmethod
    async def release(self, grant: Grant) -> None:
        """Give the lease up, if it is still this grant's, and wake the waiters. Called after all work stopped.

        The record stays, marked released, so that the epoch is not forgotten. Releasing what is lost already is
        not an error. Raises ``BackendUnavailable`` when the store did not confirm.
        """

    @abstractmethod
    async def observe(self) -> Record | None:
        """What stands in the store now; None when there is no record. Raises ``BackendUnavailable``.

        Creates nothing, as :meth:`preflight`. A store that is not there yet has no record; one that cannot be reached has
        not said so.
        """

    @abstractmethod
    async def wait_change(self, record: Record | None, timeout: float) -> None:
        """Return when the store may differ from ``record``, at the latest after ``timeout`` seconds.

        A store that pushes returns at once on a change; one that cannot may poll or sleep. Changes to wake for are a release
        and a takeover; a renewal need not wake anybody, since the core looks several times between two of them. Early returns
        are allowed, busy loops are not. Never holds up a look beside it.
        """

    async def holder_is_dead(self, record: Record) -> Literal[True, False] | None:
        """Is the record's holder proved dead (True), proved alive (False), or cannot tell (None, the default)?

        True is a promise that the process will never act again: absence of a sign of life is no proof.
        """
        del record
        return None

    async def fence(self, record: Record) -> str:
        """End the record's holder for good, and say how in a few words; "" (the default) if that was not done.

        Asked for now and then while the holder has been silent for 10 s and the store, which ends a lease with its process, keeps
        it in place. Only where the operator has allowed it, and only a holder that is *proved* frozen: a silent one
        may be at work all the same (its disk is full). Any exception is logged.
        """
        del record
        return ""

    @abstractmethod
    async def aclose(self) -> None:
        """Free the client. Does not release the lease. Called once, last."""
