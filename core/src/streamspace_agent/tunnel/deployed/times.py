"""The times by which the deployed relay is served, in seconds. Most follow from two of its own: 54 and 64."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Times:
    safe: float = 60.0
    """From the time that a viewer may have come until nothing more is sent to it. The relay sets a write deadline of
    10 s when it pings its viewer, 54 s after that came, and never clears it: a message 64 s after the viewer came
    crashes the control plane."""
    stay: float = 48.0
    """After which a viewer is ended. It has ``goodbye`` to complete an update; no write may wait in the relay by 54."""
    goodbye: float = 3.0
    quiet: float = 0.3
    """Silence of a server after which its stream is at the end of a message."""
    turn: float = 0.25
    """Between two checks of what is due."""
    probe: float = 1.0
    """Between two probes of a viewer, varied by a third, so that of two relays each soon gets one."""
    unnoticed: float = 8.0
    """Within which probes detect the relay of a viewer that left, for all practical purposes."""
    unsure: float = 0.5
    """Within which a ``vnc_close`` may cross messages to its viewer."""
    round_trip: float = 1.5
    """From a viewer's reading a greeting to its answer's arrival here, as a rule."""
    reads: float = 2.0
    """After which a viewer is presumed to have read its messages, unless more wait for it."""
    alone: float = 20.0
    """Without a viewer, until the connection is renewed because an unknown earlier viewer may still be there."""
    patience: float = 5.0
    """For which a viewer waits until another one has left, before it is refused."""
    lingers: float = 8.0
    """For which the relay of an ended viewer may stay undetected, until the connection is renewed."""
    stall: float = 10.0
    """After which a viewer is ended that reads nothing and has no place left for unread messages."""
    greet_again: float = 1.5
    """Between two greetings of a session while another session's relay discards them."""
    first_greeting: float = 2.0
    """For which a server's own greeting is awaited; then the usual one is sent, so that no viewer waits undetected."""
    probes_after: tuple[float, ...] = (2.0, 6.0, 14.0, 30.0)
    """After a greeting, when probes look for a viewer that has read it and left without an answer."""
    stale: float = 600.0
    """After which a greeting is no longer presumed to be in the queue: a viewer may have read it and left undetected.
    Once no viewer is served, the connection is renewed."""

    def scaled(self, factor: float) -> Self:
        """All times multiplied, for a relay whose own times are."""
        scaled: dict[str, Any] = {
            each.name: tuple(v * factor for v in value)
            if isinstance(value := getattr(self, each.name), tuple)
            else value * factor
            for each in fields(self)
        }
        return replace(self, **scaled)
