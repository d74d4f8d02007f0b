"""The metrics: one table, filled from a snapshot at the time of the scrape."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamspace_agent.election.role import Role
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


def _gauge(name: str, text: str, value: Callable[[Snapshot], float | None]) -> Row:
    return Row(name, "gauge", text, lambda s: [((), value(s))])


def _counter(name: str, text: str, value: Callable[[Snapshot], float]) -> Row:
    return Row(name, "counter", text, lambda s: [((), value(s))])


def _counts(name: str, text: str, label: str, counts: Callable[[Snapshot], Mapping[str, int]]) -> Row:
    """A counter for each value of one label."""
    return Row(name, "counter", text, lambda s: [((value,), count) for value, count in counts(s).items()], (label,))


def _commands(s: Snapshot) -> Values:
    return [((action, outcome), n) for action, outcomes in s.commands.done.items() for outcome, n in outcomes.items()]


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
    _gauge("epoch", "Epoch of the current leadership, as far as known", lambda s: s.election.epoch or None),
    _counts("leader_gained", "Times this replica became leader, by reason", "reason", lambda s: s.election.gained),
    _counts("leader_lost", "Times this replica stopped being leader, by reason", "reason", lambda s: s.election.lost),
    _counter("leader_seconds", "Seconds as leader, all leaderships together", lambda s: s.election.seconds_as_leader),
    _gauge("election_store_up", "1 while the election store answers", lambda s: not s.election.store_error),
    _gauge(
        "leader_silence_seconds",
        "On a standby: seconds since the leader last showed a sign of life",
        lambda s: s.election.leader_silence,
    ),
    _gauge(
        "leader_frozen",
        "On a standby: 1 while the leader keeps its lock but seems frozen",
        lambda s: s.election.leader_frozen,
    ),
    _gauge(
        "lease_renewed_age_seconds",
        "On the leader: seconds since the lease was last renewed",
        lambda s: s.election.renewed_age,
    ),
    _gauge("link_up", "1 while connected to the control plane", lambda s: s.link.connected),
    _counter("link_reconnects", "Connections to the control plane after the first", lambda s: s.link.reconnects),
    _gauge("heartbeat_age_seconds", "Seconds since the last heartbeat was sent", lambda s: s.heartbeat_age),
    _gauge("engine_up", "1 while the container engine answers", lambda s: s.engine.up),
    Row(
        "sessions",
        "gauge",
        "Sessions on the engine, by state",
        lambda s: [((state,), s.sessions.get(state, 0)) for state in SessionState],
        ("state",),
    ),
    _gauge("commands_running", "Commands that are running", lambda s: s.commands.running),
    _gauge("commands_open", "Commands received that have no result yet", lambda s: s.commands.open),
    Row("commands", "counter", "Commands that ended, by action and outcome", _commands, ("action", "outcome")),
    Row(
        "gateway_listening",
        "gauge",
        "On the leader: 1 while the web gateway listens at the address",
        lambda s: [((address,), not error) for address, error in s.gateway.addresses.items()],
        ("address",),
    ),
    _gauge("gateway_connections", "Open connections to the web gateway", lambda s: s.gateway.connections),
    _counts("gateway_requests", "Requests to the web gateway that ended", "outcome", lambda s: s.gateway.requests),
    _gauge("outbox_messages", "Messages that the control plane has not acknowledged yet", lambda s: s.outbox),
    _gauge("loop_tick_age_seconds", "Seconds since the main loop last turned", lambda s: s.loop_tick_age),
    _gauge("alive", "1 while the main loop turns", lambda s: s.alive),
    _gauge("ready", "1 while this replica serves its purpose", lambda s: not s.unready()),
)
"""All metrics. :func:`full_name` adds the prefix, and ``_total`` to counters."""


def full_name(row: Row) -> str:
    return f"streamspace_agent_{row.name}" + ("_total" if row.kind == "counter" else "")


class Metrics(Collector):
    """The metrics of the replica, and of its process (CPU, memory, open files)."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        snapshot = self._source()
        for row in TABLE:
            family = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            metric = family(f"streamspace_agent_{row.name}", row.help, labels=row.labels)
            for labels, value in row.values(snapshot):
                if value is not None:
                    metric.add_metric(labels, float(value))
            yield metric

    def render(self) -> bytes:
        return generate_latest(self._registry)
