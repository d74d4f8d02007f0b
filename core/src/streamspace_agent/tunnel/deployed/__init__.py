"""Screens through the viewer relay of the deployed control plane, which drops messages and can crash it.

What the relay does (read in its source, ``api/internal/handlers/vnc_proxy.go``, and observed):

* All ``vnc_*`` messages of one agent connection enter one queue of 256. A full queue drops messages silently. Only the
  relays of viewers empty it: each takes any message, and discards those of other sessions.
* The relay of a viewer that left usually stays. It goes on taking messages until a write to its viewer fails. Only then
  is ``vnc_close`` sent.
* A relay that returns while its viewer is connected crashes the whole control plane. ``vnc_error`` makes it return, and
  so does any message for its viewer later than 64 s after the viewer came (a write deadline, set after 54 s and never
  cleared).

So the agent follows these rules:

* It never sends ``vnc_error``. It ends a viewer by means of RFB: during the handshake by a refusal with a reason, later
  by an unknown message type.
* It sends nothing for a session while a relay of it may be older than :attr:`.times.Times.safe` seconds. A viewer is
  ended before that.
* It sends a session that has a viewer an empty message every second, to detect the relay of a viewer that has left.
* It keeps a session's greeting in the queue exactly once, and sends it again when another relay has discarded it.
* It serves one viewer at a time: messages sent while two relays take them are lost to either.
* If nothing else helps, it renews the connection to the control plane: the new one has an empty queue and no relays.
"""
