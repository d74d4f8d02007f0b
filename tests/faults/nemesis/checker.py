"""Checks what must hold whatever was broken, from the replicas' own traces and from what the control plane saw.

Every function returns the violations that it found, as sentences. Times are CLOCK_BOOTTIME, one clock for the machine.
"""

import json
import math
from dataclasses import dataclass
from itertools import pairwise

ANSWERS = {"complete", "failed"}


@dataclass(frozen=True)
class Tenure:
    """The time in which one replica might act."""

    instance: str
    epoch: int
    begin: float
    end: float


def read(path):
    """The whole lines of a record. A process that was killed may have left half of one."""
    try:
        lines = path.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line]


def tenures(records, deaths=None):
    """From a replica's `in` to the first of: its work has stopped, its lease is over, its last deadline, its death.

    `deaths` says by instance when its process was killed.
    """
    found = {}
    for record in records:
        if record["epoch"] is not None:
            found.setdefault((record["instance"], record["epoch"]), []).append(record)
    return sorted((_tenure(*key, events, deaths or {}) for key, events in found.items()), key=lambda t: t.begin)


def _tenure(instance, epoch, events, deaths):
    begins = [event["boottime"] for event in events if event["event"] == "in"]
    ends = [event["boottime"] for event in events if event["event"] in {"over", "out"}]
    deadlines = [event["deadline"] for event in events if event["deadline"] is not None]
    # Without an `in`, nobody knows when it began to act.
    return Tenure(
        instance,
        epoch,
        begins[0] if len(begins) == 1 else -math.inf,
        min([*ends, *([max(deadlines)] if deadlines else []), deaths.get(instance, math.inf)]),
    )


def overlaps(all_tenures):
    found = []
    before = None
    for tenure in sorted(all_tenures, key=lambda t: t.begin):
        if tenure.begin == -math.inf:
            found.append(f"{tenure.instance} in epoch {tenure.epoch} does not say, or says twice, when it began")
        if before and tenure.begin < before.end:
            found.append(
                f"{tenure.instance} acted in epoch {tenure.epoch} {before.end - tenure.begin:.3f} s before "
                f"{before.instance} had to stop in epoch {before.epoch}"
            )
        if before is None or tenure.end > before.end:
            before = tenure
    return found


def epochs_out_of_order(all_tenures):
    ordered = sorted(all_tenures, key=lambda t: t.begin)
    return [
        f"epoch {after.epoch} of {after.instance} began after epoch {before.epoch} of {before.instance}"
        for before, after in pairwise(ordered)
        if after.epoch <= before.epoch
    ]


def late_work(all_tenures, work):
    """Work that an earlier leader did after a later one had begun to lead."""
    begins = sorted((tenure.epoch, tenure.begin) for tenure in all_tenures)
    led = {epoch for epoch, _ in begins}
    found = []
    for item in work:
        if item["epoch"] not in led:
            found.append(f"{item['event']} of command {item['command']} in epoch {item['epoch']}, which nobody led")
            continue
        newer = [begin for epoch, begin in begins if epoch > item["epoch"] and begin < item["boottime"]]
        if newer:
            found.append(
                f"{item['event']} of command {item['command']} in epoch {item['epoch']}, "
                f"{item['boottime'] - min(newer):.3f} s after a newer one began"
            )
    return found


def older_accepted(events):
    """Heartbeats of an older epoch that the control plane got after those of a newer one."""
    found, highest = [], 0
    for event in events:
        if event["type"] == "heartbeat":
            epoch = event["payload"]["epoch"]
            if epoch < highest:
                found.append(f"epoch {epoch} was heard after epoch {highest}")
            highest = max(highest, epoch)
    return found


@dataclass(frozen=True)
class Commands:
    sent: int
    lost: list
    """Accepted by an agent (it sent `ack`, or began), but never answered."""
    twice: list
    """Completed twice, or answered in two different ways."""
    undelivered: list
    """Written to a connection that nobody read any more. The control plane sends a command only once."""


def commands(sent, events, work):
    answers, acked = {}, set()
    for event in events:
        if event["direction"] != "from_agent":
            continue
        name = event["payload"].get("commandId")
        if event["type"] in ANSWERS:
            answers.setdefault(name, set()).add(json.dumps([event["type"], event["payload"]], sort_keys=True))
        elif event["type"] == "ack":
            acked.add(name)
    ended = [item["command"] for item in work if item["event"] == "end"]
    begun = {item["command"] for item in work}
    silent = [name for name in sent if name not in answers]
    return Commands(
        len(sent),
        lost=[name for name in silent if name in acked | begun],
        twice=sorted({name for name in ended if ended.count(name) > 1} | {n for n, a in answers.items() if len(a) > 1}),
        undelivered=[name for name in silent if name not in acked | begun],
    )
