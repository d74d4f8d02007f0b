"""Carries the screens of sessions to their viewers: one tunnel per session, all of them over the one link.

A screen's way: :mod:`.session_server` connects to the session, :mod:`.stream` reads the connection, :mod:`.channel`
serves one viewer, :mod:`.multiplexer` sends the data of all channels within the limits of :mod:`.flow_control`, and
:mod:`.rfb` parses what viewers send. :mod:`.repaired` and :mod:`.deployed` decide who is served, for the two kinds of
viewer relay behind the contract of :mod:`.tunnels`.
"""
