"""Agents: how they register, their connections, and what happens to messages."""
