"""Alert rules and dashboard ask for what the agent exports, by the labels that it has there."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from streamspace_agent.health.metrics import TABLE, full_name

FOLDER = Path(__file__).resolve().parents[2] / "deployments/monitoring"
LABELS = {full_name(row): set(row.labels) for row in TABLE}
GIVEN = {"job", "instance"}  # by Prometheus, to every series


def alerts():
    text = (FOLDER / "alerts.yaml").read_text()
    names, expressions = re.findall(r"- alert: (\w+)", text), re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)
    assert len(names) == len(expressions) == len(set(names))
    return list(zip(names, expressions, strict=True))


def panels():
    board = json.loads((FOLDER / "dashboard.json").read_text())
    return [(f"{p['title']} {t['refId']}", t["expr"]) for p in board["panels"] for t in p["targets"]]


def process_metrics():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return {sample.name for family in registry.collect() for sample in family.samples}


@pytest.mark.parametrize(("name", "expression"), [*alerts(), *panels()], ids=lambda value: str(value)[:40])
def test_an_expression_names_only_metrics_and_labels_that_exist(name, expression):
    used = set(re.findall(r"\b(?:streamspace_agent|process)_\w+", expression))
    assert used
    assert used <= LABELS.keys() | process_metrics()
    for metric, selector in re.findall(r"\b(streamspace_agent_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= LABELS[metric]
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", group)}
    assert grouped <= GIVEN.union(*(LABELS[metric] for metric in used if metric in LABELS))


def test_every_metric_but_details_is_on_the_dashboard_or_behind_an_alert():
    shown = " ".join(expression for _, expression in [*alerts(), *panels()])
    details = {
        "streamspace_agent_epoch",
        "streamspace_agent_leader_seconds_total",
        "streamspace_agent_leader_silence_seconds",
        "streamspace_agent_loop_tick_age_seconds",
    }
    assert {name for name in LABELS if name not in shown} <= details
