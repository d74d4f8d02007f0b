"""The times by which the deployed relay is served, all in seconds. Most follow from two of its own: 54 and 64."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Times:
    safe: float = 60.0
    """After a viewer may have come, until nothing is sent to it any more. The relay sets a write deadline of 10 s when it pings its
    viewer, 54 s after that came, and never clears it: a message that comes 64 s after the viewer did ends the control plane."""
    stay: float = 48.0
    """After that a viewer is ended. It has ``goodbye`` to come to the end of an update; by 54 s no write may be waiting in the relay."""
    goodbye: float = 3.0
    quiet: float = 0.3
    """Of a server's silence, after which its stream is at the end of a message."""
    turn: float = 0.25
    """Between two looks at what is due."""
    probe: float = 1.0
    """Between two empty messages to a viewer; varied by a third, so that of two relays each gets one soon."""
    unnoticed: float = 8.0
    """In which a relay whose viewer has left is found, for all practical purposes, while it is probed."""
    unsure: float = 0.5
    """Within which the control plane's word that a viewer left may cross messages on their way to it."""
    round_trip: float = 1.5
    """That a viewer takes at most from reading a greeting to its answer's arrival here, as a rule."""
    reads: float = 2.0
    """After which a viewer is taken to have read what it was sent, unless more waits for it."""
    alone: float = 20.0
    """For which nobody came, until the connection is renewed because an earlier viewer may be left that nobody knows of."""
    patience: float = 5.0
    """That a viewer waits for another one's leaving before it is refused."""
    lingers: float = 8.0
    """For which the relay of an ended viewer may go unfound until the connection is renewed instead."""
    stall: float = 10.0
    """Without a sign that a viewer reads, with all unread that may be, until it is given up."""
    greet_again: float = 1.5
    """After which a session is greeted again while another one's relay takes what it is sent."""
    first_greeting: float = 2.0
    """For which a server's own greeting is waited for; then the usual one is sent, so that nobody waits unseen."""
    probes_after: tuple[float, ...] = (2.0, 6.0, 14.0, 30.0)
    """After a greeting, at which empty messages look for a viewer that has read it and left without an answer."""
    stale: float = 600.0
    """After which a greeting is not trusted any more to lie in the queue: a viewer may have read it and left without a word, and
    nobody could be told. As long as nobody is served, a new connection makes sure."""

    def scaled(self, factor: float) -> Self:
        """All of them longer or shorter, for a relay whose own times are."""
        scaled: dict[str, Any] = {
            each.name: tuple(v * factor for v in value)
            if isinstance(value := getattr(self, each.name), tuple)
            else value * factor
            for each in fields(self)
        }
        return replace(self, **scaled)
