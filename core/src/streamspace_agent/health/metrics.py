"""The metrics: one table, filled from a snapshot at the time of the scrape."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamspace_agent.election.status import Role
from streamspace_agent.health import Snapshot, Source
from streamspace_agent.runtime import SessionState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Values = Iterable[tuple[tuple[str, ...], float | None]]


@dataclass(frozen=True, slots=True)
class Row:
    """A metric. ``values`` returns the label values and the number of each sample; None is left out."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    values: Callable[[Snapshot], Values]
    labels: tuple[str, ...] = ()


def _one(value: float | None) -> Values:
    return [((), value)]


TABLE = (
    Row(
        "info",
        "gauge",
        "Identity of this replica; always 1",
        lambda s: [((s.agent_id, s.instance, s.host, s.version), 1)],
        ("agent", "instance", "host", "version"),
    ),
    Row(
        "role",
        "gauge",
        "1 for the role of this replica, 0 for the others",
        lambda s: [((r,), s.role == r) for r in Role],
        ("role",),
    ),
    Row(
        "epoch",
        "gauge",
        "Epoch of the current leadership, as far as this replica knows",
        lambda s: _one(s.election.epoch or None),
    ),
    Row(
        "leader_gained",
        "counter",
        "Times this replica became leader, by reason",
        lambda s: [((reason,), count) for reason, count in s.election.gained.items()],
        ("reason",),
    ),
    Row(
        "leader_lost",
        "counter",
        "Times this replica stopped being leader, by reason",
        lambda s: [((reason,), count) for reason, count in s.election.lost.items()],
        ("reason",),
    ),
    Row(
        "leader_seconds",
        "counter",
        "Seconds that this replica has been leader, all its leaderships together",
        lambda s: _one(s.election.seconds_as_leader),
    ),
    Row("election_store_up", "gauge", "1 while the election store answers", lambda s: _one(not s.election.store_error)),
    Row(
        "leader_silence_seconds",
        "gauge",
        "On a standby: seconds since the leader last showed a sign of life",
        lambda s: _one(s.election.leader_silence),
    ),
    Row(
        "leader_frozen",
        "gauge",
        "On a standby: 1 while the leader keeps its lock but seems frozen",
        lambda s: _one(s.election.leader_frozen),
    ),
    Row(
        "lease_renewed_age_seconds",
        "gauge",
        "On the leader: seconds since the lease was last renewed",
        lambda s: _one(s.election.renewed_age),
    ),
    Row("link_up", "gauge", "1 while connected to the control plane", lambda s: _one(s.link.connected)),
    Row(
        "link_reconnects",
        "counter",
        "Connections to the control plane after the first",
        lambda s: _one(s.link.reconnects),
    ),
    Row("heartbeat_age_seconds", "gauge", "Seconds since the last heartbeat was sent", lambda s: _one(s.heartbeat_age)),
    Row("engine_up", "gauge", "1 while the container engine answers", lambda s: _one(s.engine.up)),
    Row(
        "sessions",
        "gauge",
        "Sessions on the engine, by state",
        lambda s: [((state,), s.sessions.get(state, 0)) for state in SessionState],
        ("state",),
    ),
    Row("commands_running", "gauge", "Commands that are running", lambda s: _one(s.commands.running)),
    Row("commands_open", "gauge", "Commands received that have no result yet", lambda s: _one(s.commands.open)),
    Row(
        "commands",
        "counter",
        "Commands that ended, by action and outcome",
        lambda s: [
            ((action, outcome), count)
            for action, outcomes in s.commands.done.items()
            for outcome, count in outcomes.items()
        ],
        ("action", "outcome"),
    ),
    Row(
        "gateway_listening",
        "gauge",
        "On the leader: 1 while the web gateway listens at the address",
        lambda s: [((address,), not error) for address, error in s.gateway.addresses.items()],
        ("address",),
    ),
    Row("gateway_connections", "gauge", "Open connections to the web gateway", lambda s: _one(s.gateway.connections)),
    Row(
        "gateway_requests",
        "counter",
        "Requests to the web gateway that ended, by outcome",
        lambda s: [((outcome,), count) for outcome, count in s.gateway.requests.items()],
        ("outcome",),
    ),
    Row(
        "outbox_messages", "gauge", "Messages that the control plane has not acknowledged yet", lambda s: _one(s.outbox)
    ),
    Row("loop_tick_age_seconds", "gauge", "Seconds since the main loop last turned", lambda s: _one(s.loop_tick_age)),
    Row("alive", "gauge", "1 while the main loop turns", lambda s: _one(s.alive)),
    Row("ready", "gauge", "1 while this replica serves its purpose", lambda s: _one(not s.unready())),
)
"""All metrics. :func:`full_name` adds the prefix, and ``_total`` to counters."""


def full_name(row: Row) -> str:
    return f"streamspace_agent_{row.name}" + ("_total" if row.kind == "counter" else "")


class SnapshotCollector(Collector):
    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        snapshot = self._source()
        for row in TABLE:
            family = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            metric = family(f"streamspace_agent_{row.name}", row.help, labels=row.labels)
            for labels, value in row.values(snapshot):
                if value is not None:
                    metric.add_metric(labels, float(value))
            yield metric


class Metrics:
    """The metrics of the replica, and of its process (CPU, memory, open files)."""

    def __init__(self, source: Source) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(SnapshotCollector(source))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        return generate_latest(self._registry)
