"""The role of a replica."""

from enum import StrEnum


class Role(StrEnum):
    STARTING = "starting"
    """Not standing for election yet, or not any more."""
    STANDBY = "standby"
    LEADER = "leader"
    DRAINING = "draining"
    """The lease is over, but the work under it has not stopped yet."""
