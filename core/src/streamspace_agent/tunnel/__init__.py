"""Carries the screens of sessions to their viewers: one tunnel a session, all of them over the one link."""
