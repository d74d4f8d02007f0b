"""The contract between the core and an election backend.

The core owns all timing (:mod:`streamspace_agent.election.elector`). A backend only makes atomic steps on its store and
reports one of three outcomes: yes, no (:exc:`~streamspace_agent.errors.LeaseLost`, or :class:`Held`), or unknown
(:exc:`~streamspace_agent.errors.BackendUnavailable`). "No" for an unknown outcome costs a working leader its lease;
"yes" for an unknown outcome makes two leaders.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding of a preflight or of ``docker-agent check``.

    ``fatal`` problems do not go away by waiting (a worker instead of a manager, a lock file on NFS); the others are
    warnings. ``message`` says what is wrong, ``fix`` what to do; both name the variable concerned.
    """

    message: str
    fix: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of a lease, in seconds. Each backend's documentation says where its defaults come from.

    * ``lease``: how long a record that nobody renews keeps others out. A standby counts it on its own clock, 1 % long.
      None where the store itself ends a lease with the process (a kernel lock): then ``renew_every`` is how often the
      holder checks that it still holds the lock.
    * ``renew_every``: from one renewal to the next. A standby observes the record
      :data:`~streamspace_agent.election.acquisition.OBSERVATIONS_PER_RENEWAL` times in it.
    * ``call_timeout``: the core cancels a call after this time. A call may also block its thread for as long.
    * ``margin``: a leader stops acting this long before its lease ends, so that what it has begun can finish. Counted
      from when its last confirmed renewal was *sent*, on a clock that may be 1 % slow.

    :func:`streamspace_agent.election.timing.scaled` computes them from ``LEASE_DURATION`` and ``LEASE_PROFILE``;
    :func:`streamspace_agent.election.timing.check` refuses them unless ``factor`` renewals, each as slow as allowed,
    fit into ``lease - margin``. A factor of 2 survives the loss of one renewal and is the least that the suite accepts;
    use 3 where a healthy store loses answers now and then (network packets, a server that restarts).
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

    * ``instance``: readable, and unique among live replicas
    * ``nonce``: new for every process start and for every attempt to become leader
    * ``host``, ``container_id`` (full id, or empty outside a container): let another replica look the holder up
    * ``lease``: this replica's own lease in seconds, or None
    * ``epoch_floor``: the new epoch must exceed it. The highest epoch that this replica has ever seen or the wall clock
      in ms, whichever is larger
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
    """What the store says about the lease.

    * ``sequence``: rises with every renewal
    * ``lease_ms``: the *holder's* lease in milliseconds; 0 if it ends by itself
    * ``released``: the holder has stopped and then released the lease
    * ``revision``: opaque to the core; :meth:`ElectionBackend.acquire` compares it to see that nothing has changed
    * ``since``: wall-clock text for people only
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
        """Whether both show the same holder in the same epoch, renewed or not."""
        return other is not None and (self.nonce, self.epoch) == (other.nonce, other.epoch)


@dataclass(frozen=True, slots=True)
class Grant:
    """The lease was granted: ``record`` as written. ``token`` is the backend's own (a descriptor, a version)."""

    record: Record
    token: object = None


@dataclass(frozen=True, slots=True)
class Held:
    """The lease was not granted: ``record`` is what the store shows now, another holder's or a changed one."""

    record: Record | None


class ElectionBackend(ABC):
    """One lease for one agent id in one store.

    Every method is called from the elector's own event loop and thread, one at a time except that
    :meth:`wait_change` may run beside :meth:`observe` and :meth:`holder_is_dead`. Each is given
    ``timing.call_timeout`` by the core, :meth:`wait_change` its own timeout; :meth:`preflight` 5 s, or ``call_timeout``
    where that is longer. Any exception but those named counts as an unknown outcome.

    Cancellation is prompt: the core cancels when there is no time left. The call ends at once, with CancelledError,
    whatever the store does, and begins nothing more. Keep a client library from retrying, from waiting for a silent
    server to close, and from turning the cancellation into an error of its own. The backend stays usable, and the next
    call may find the cancelled one done or not done. A call may block its thread for ``call_timeout`` at most,
    :meth:`wait_change` not at all.

    The store must be able to keep names of this length: an agent id has 3 to 100 letters, digits, dots, dashes and
    underscores, and is case-sensitive; an instance has up to 100 characters, a nonce up to 40, a host 64, a container
    id 64. Epochs are milliseconds of Unix time and need 64 bits.
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

        Must change nothing and create nothing, neither a file nor a table: ``docker-agent check`` may run it as root,
        and the agent could not open root's file. Raise ``BackendUnavailable`` when the store cannot be reached now,
        with a message that names the variable: ``check`` shows it as it is.
        """

    @abstractmethod
    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        """Take the lease in one atomic step if the store still shows exactly ``seen``.

        ``seen`` is what the core has observed and found free to take (released, its holder certified dead, or run out
        while the core watched), or None for a store without a record. A store that ends leases by itself (flock) takes
        the lock if it can and ignores ``seen``. The new epoch is ``max(stored epoch, me.epoch_floor) + 1``.
        Returns :class:`Grant`, or :class:`Held` when the store shows another record. Raises ``BackendUnavailable``
        when the outcome is unknown: the lease may have been taken, and the same call again with the same nonce must
        then return the Grant. Raises ``PreflightError`` for what waiting cannot mend: the agent exits with it.
        """

    @abstractmethod
    async def renew(self, grant: Grant) -> Grant:
        """Extend the lease in one atomic step if this grant still holds it. Called every ``timing.renew_every``.

        Returns the grant to renew next. Raises ``LeaseLost`` when the store shows another holder, another
        epoch or no record; ``BackendUnavailable`` when the outcome is unknown. Must never overwrite another's record.
        """

    @abstractmethod
    async def release(self, grant: Grant) -> None:
        """Release the lease if this grant still holds it, and wake the waiters. Called after all work has stopped.

        The record stays, marked as released, so that the epoch is not forgotten. Releasing a lost lease is no error.
        Raises ``BackendUnavailable`` when the store did not confirm.
        """

    @abstractmethod
    async def observe(self) -> Record | None:
        """Return the store's record, None when there is none. Raises ``BackendUnavailable``.

        Creates nothing, like :meth:`preflight`. A store that does not exist yet has no record; for one that cannot be
        reached, the outcome is unknown.
        """

    @abstractmethod
    async def wait_change(self, record: Record | None, timeout: float) -> None:
        """Return when the store may differ from ``record``, at the latest after ``timeout`` seconds.

        A store that pushes returns at once on a change; one that cannot may poll or sleep. A release and a takeover
        must wake a waiter; a renewal need not, since the core observes several times between two renewals. Early
        returns are allowed, busy loops are not. Must not delay an :meth:`observe` that runs beside it.
        """

    async def holder_is_dead(self, record: Record) -> Literal[True, False] | None:
        """Whether the record's holder is proved dead (True), proved alive (False), or neither (None, the default).

        True is a promise that the process will never act again: a missing sign of life proves nothing.
        """
        del record
        return None

    async def fence(self, record: Record) -> str:
        """End the record's holder for good and say how in a few words; return "" (the default) if that was not done.

        Called repeatedly once the holder has been silent for 10 s, where the store ends a lease with its process and so
        keeps the holder in place. Act only where the operator has allowed it, and only against a holder that is
        *proved* frozen: a silent one may still be working (its disk is full). Any exception is logged.
        """
        del record
        return ""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the client. Does not release the lease. Called once, last."""
