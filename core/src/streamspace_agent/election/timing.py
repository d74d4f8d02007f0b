"""The timing of a lease by ``LEASE_DURATION`` and ``LEASE_PROFILE``: scaled as one set, refused where it is unsafe."""

from collections.abc import Mapping
from typing import Literal, cast

from streamspace_agent.config import Settings
from streamspace_agent.election import Problem, Timing
from streamspace_agent.errors import ConfigError
from streamspace_agent.units import format_seconds

Profile = Literal["fast", "steady"]

STEADY = 3.0
"""How much longer a lease is under the profile ``steady``: 15 s for redis, 30 s for swarm, whose managers may need
10-20 s to elect a leader (measured)."""

# Seconds. A short lease shortens neither the round trip to a store nor the time that work needs to stop.
LEAST_CALL_TIMEOUT = 0.2
LEAST_MARGIN = 0.25

# 0.9 x lease and lease - 0.1 x lease are the same number, but not the same float.
_ROUNDING = 1e-9


def profile_of(environ: Mapping[str, str]) -> Profile:
    """``LEASE_PROFILE``, by default ``fast``. Raises ConfigError."""
    value = environ.get("LEASE_PROFILE", "").strip().lower() or "fast"
    if value not in {"fast", "steady"}:
        raise ConfigError(
            [f"LEASE_PROFILE is {value[:40]!r}: write fast (the default) or steady, which rides out a slow store"]
        )
    return cast("Profile", value)


def scaled(defaults: Timing, lease_duration: float | None, profile: Profile) -> Timing:
    """``defaults`` for a lease of ``lease_duration`` seconds, or of the profile's length if that is None.

    The other numbers scale in proportion, down to the least call timeout and margin. ``steady`` renews as often as
    ``fast``: what a lease has left just before a renewal is how long a store may be away. Where the store itself ends a
    lease (``defaults.lease`` is None) there is nothing to scale.
    """
    if defaults.lease is None:
        return defaults
    steady = profile == "steady" and lease_duration is None
    lease = lease_duration or defaults.lease * (STEADY if steady else 1.0)
    factor = lease / defaults.lease
    return Timing(
        lease=lease,
        renew_every=defaults.renew_every * (1.0 if steady else factor),
        call_timeout=max(LEAST_CALL_TIMEOUT, defaults.call_timeout * factor),
        margin=max(LEAST_MARGIN, defaults.margin * factor),
    )


def check(timing: Timing, factor: int) -> Timing:
    """Return ``timing`` if ``factor`` renewals, each as slow as allowed, fit into the time that a leader may act.

    Otherwise one lost packet could depose a healthy leader. Use 2 at least, and 3 for a store across a network (see
    :class:`~streamspace_agent.election.Timing`). Raises ConfigError.
    """
    if timing.lease is None:
        return timing
    needed, usable = factor * (timing.renew_every + timing.call_timeout), timing.lease - timing.margin
    if needed <= usable + _ROUNDING:
        return timing
    problem = (
        f"LEASE_DURATION={timing.lease:g}s is unsafe: {factor} renewals, one every {format_seconds(timing.renew_every)}"
        f" with up to {format_seconds(timing.call_timeout)} for the answer, take {format_seconds(needed)}, and a leader"
        f" may act for {format_seconds(usable)}; set LEASE_DURATION longer, or unset it"
    )
    raise ConfigError([problem])


def lease_duration_warnings(settings: Settings, timing: Timing) -> list[Problem]:
    """Warn where ``LEASE_DURATION`` is set and the chosen backend's lease is another."""
    if not settings.enable_ha or settings.lease_duration in {None, timing.lease}:
        return []
    chosen = f"LEADER_ELECTION_BACKEND={settings.leader_election_backend}"
    if timing.lease is None:
        message = f"LEASE_DURATION has no meaning with {chosen}, whose lease ends with the leader's process"
    else:
        message = f"LEASE_DURATION is ignored by {chosen}, whose lease is {timing.lease:g}s"
    return [Problem(message, "unset LEASE_DURATION", fatal=False)]
