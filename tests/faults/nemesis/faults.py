"""The faults that any backend's replicas can suffer, and how a round with one is played."""

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

CHANGE, NO_CHANGE, EITHER = "change", "no change", "either"


async def nothing(stage):
    pass


@dataclass(frozen=True)
class Fault:
    """`inject` and `heal` take the stage, whose `leader` is who led when the round began.

    With `lasts`, it is healed after so many seconds, whatever happened; without, once another replica leads. `quick`
    ones are in every test run."""

    name: str
    expect: str
    inject: Callable
    heal: Callable = nothing
    lasts: float | None = None
    quick: bool = True
    prepare: Callable = nothing
    """Before the round begins, on a steady stage; leaders may change."""
    leader: str = ""
    """The name of the replica that has to lead when the fault is injected; any if empty."""


def leader_gets(number):
    async def inject(stage):
        stage.leader.signal(number)

    return inject


def command(action, **payload):
    async def inject(stage):
        stage.command(action, **payload)

    return inject


async def fork_and_die(stage):
    name = stage.command("nemesis_fork", seconds=5)
    await stage.plane.wait_command(name)
    stage.leader.signal(signal.SIGKILL)


async def thaw(stage):
    stage.leader.signal(signal.SIGCONT)


def freeze(seconds, expect, **more):
    return Fault(f"frozen for {seconds:g} s", expect, leader_gets(signal.SIGSTOP), thaw, lasts=seconds, **more)


async def crowd_and_hand_over(stage):
    """The candidates lead in turn, a twentieth of a second each, until a standby, frozen at first, leads for good."""
    await stage.crowd(2, 25)
    for replica in stage.standbys:
        replica.signal(signal.SIGSTOP)
    stage.leader.signal(signal.SIGTERM)
    await asyncio.sleep(3)
    for replica in stage.standbys:
        replica.signal(signal.SIGCONT)


async def disperse(stage):
    assert len(stage.crowds_tenures()) > 2
    await stage.disperse()


CROWD = Fault("50 more candidates at a hand-over", CHANGE, crowd_and_hand_over, disperse, lasts=8)
KILL = Fault("SIGKILL", CHANGE, leader_gets(signal.SIGKILL))
HANDOVER = Fault("SIGTERM", CHANGE, leader_gets(signal.SIGTERM))
FORK = Fault("SIGKILL after a fork", CHANGE, fork_and_die)


def block(seconds, expect, **more):
    inject = command("nemesis_block", seconds=seconds)
    return Fault(f"main loop blocked for {seconds:g} s", expect, inject, lasts=seconds, **more)


@dataclass(frozen=True)
class Outcome:
    """`took`: seconds from the injection until the control plane had accepted another leader; None without a change."""

    fault: Fault
    took: float | None

    @property
    def expected(self):
        return self.fault.expect == EITHER or (self.fault.expect == CHANGE) == (self.took is not None)


async def play(stage, fault):
    """One round: a steady stage, the fault, its end, a steady stage again."""
    epoch = await stage.steady()
    if fault.prepare is not nothing:
        await fault.prepare(stage)
        epoch = await stage.steady()
    while fault.leader and stage.leader.name != fault.leader:
        stage.leader.signal(signal.SIGTERM)
        await stage.accepted(epoch, stage.now())
        epoch = await stage.steady()
    after, began = stage.now(), time.time()
    await fault.inject(stage)
    try:
        if fault.lasts is None:
            await stage.accepted(epoch, after)
        else:
            await asyncio.sleep(max(0.0, began + fault.lasts - time.time()))
    finally:
        await fault.heal(stage)
    after_all = await stage.steady()
    when = await stage.accepted(epoch, after) if after_all > epoch else None
    return Outcome(fault, when - began if when else None)
