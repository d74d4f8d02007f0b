"""Screens through the viewer relay of the control plane as it is deployed, which must be handled with care.

What it does (read in its source, api/internal/handlers/vnc_proxy.go, and seen):

* All ``vnc_*`` messages of one connection of an agent enter one queue of 256; a full one drops them in silence. Only viewers'
  relays empty it. Each takes any message and throws away what is not for its own session.
* A viewer that left is rarely told: its relay stays, and goes on taking messages until a write to its viewer fails. Only then
  ``vnc_close`` comes.
* A relay that returns while its viewer is connected ends the whole control plane. ``vnc_error`` makes it return, and so does any
  message for its viewer that comes later than 64 s after the viewer did (a write deadline, set after 54 s and never cleared).

What follows:

* ``vnc_error`` is never sent. A viewer is ended in the language of RFB: refused with a reason during its handshake, and by a message
  type that does not exist after it.
* Nothing is sent for a session while a relay of it may be older than :attr:`.times.Times.safe` seconds. A viewer is ended before that.
* An answered session is told an empty message every second: it finds the relay whose viewer has left.
* A session's greeting lies in the queue exactly once, and is sent again when another viewer's relay has thrown it away.
* One viewer at a time is served: what is sent while two relays take messages is lost to either.
* Where nothing else helps, the connection to the control plane is renewed: a new one has an empty queue and no relays.
"""
