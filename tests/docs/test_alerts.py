"""The alert rules as Prometheus itself reads them: each fires for what it is about, none for two healthy replicas."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from lab import apt

pytestmark = pytest.mark.slow


RULES = Path(__file__).resolve().parents[2] / "deployments/monitoring/alerts.yaml"
LEADER, STANDBY = "host-a:9", "host-b:9"
GATEWAY = 'streamspace_agent_gateway_listening{address="10.0.0.5:3000"}'
HEALTHY = {
    LEADER: {
        "up": "1x90",
        'streamspace_agent_role{role="leader"}': "1x90",
        "streamspace_agent_link_up": "1x90",
        "streamspace_agent_engine_up": "1x90",
        GATEWAY: "1x90",
        "streamspace_agent_election_store_up": "1x90",
        "streamspace_agent_alive": "1x90",
        "streamspace_agent_heartbeat_age_seconds": "12x90",
        "streamspace_agent_leader_gained_total": "1x90",
        'streamspace_agent_commands_total{action="start_session",outcome="failed"}': "0x90",
        'streamspace_agent_commands_total{action="start_session",outcome="completed"}': "0+3x90",
        "streamspace_agent_outbox_messages": "2x90",
    },
    STANDBY: {
        "up": "1x90",
        'streamspace_agent_role{role="leader"}': "0x90",
        "streamspace_agent_link_up": "0x90",
        "streamspace_agent_engine_up": "0x90",
        "streamspace_agent_election_store_up": "1x90",
        "streamspace_agent_alive": "1x90",
        "streamspace_agent_leader_frozen": "0x90",
        "streamspace_agent_leader_gained_total": "0x90",
    },
}
INFO = 'streamspace_agent_info{agent="docker-1"}'
FIRES = [
    ("StreamspaceAgentWithoutLeader", LEADER, {'streamspace_agent_role{role="leader"}': "1x60 0x30"}),
    ("StreamspaceAgentTwoLeaders", STANDBY, HEALTHY[LEADER]),
    ("StreamspaceAgentUnreachable", STANDBY, {"up": "1x60 0x30"}),
    ("StreamspaceAgentUnreachable", STANDBY, {"streamspace_agent_alive": "1x60 0x30"}),
    ("StreamspaceAgentLinkDown", LEADER, {"streamspace_agent_link_up": "1x60 0x30"}),
    ("StreamspaceAgentHeartbeatLate", LEADER, {"streamspace_agent_heartbeat_age_seconds": "12x60 13+60x30"}),
    ("StreamspaceAgentEngineDown", LEADER, {"streamspace_agent_engine_up": "1x60 0x30"}),
    ("StreamspaceAgentWebGatewayDown", LEADER, {GATEWAY: "1x60 0x30"}),
    ("StreamspaceAgentElectionStoreDown", STANDBY, {"streamspace_agent_election_store_up": "1x60 0x30"}),
    ("StreamspaceAgentLeaderFrozen", STANDBY, {"streamspace_agent_leader_frozen": "0x60 1x30"}),
    ("StreamspaceAgentFrequentFailovers", LEADER, {"streamspace_agent_leader_gained_total": "1x60 2+1x30"}),
    (
        "StreamspaceAgentCommandsFail",
        LEADER,
        {'streamspace_agent_commands_total{action="start_session",outcome="failed"}': "0x60 1+1x30"},
    ),
    ("StreamspaceAgentMessagesPileUp", LEADER, {"streamspace_agent_outbox_messages": "2x60 500+100x30"}),
]
UNUSED = "host-a:10"
WITHOUT_LEADER, UNREACHABLE = "StreamspaceAgentWithoutLeader", "StreamspaceAgentUnreachable"
LINK_DOWN = "StreamspaceAgentLinkDown"
ALL_GONE = "StreamspaceAgentGone"


def lost(replica, minutes):
    """What is left of a replica after an hour, for so many minutes."""
    return dict.fromkeys([*HEALTHY[replica], INFO], f"1x60 _x{minutes}") | {"up": f"1x60 0x{minutes}"}


@pytest.fixture(scope="module")
def promtool():
    apt.require("prometheus")

    def run(*arguments):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture
def firing(promtool, tmp_path):
    """`firing({REPLICA: {series: values}}, alerts)`: with those series so, exactly those alerts fire at the end of 85
    minutes."""

    def check(changed, alerts, at="85m"):
        series = []
        for instance in {**HEALTHY, **changed}:
            healthy = {INFO: "1x90"} | HEALTHY[instance] if instance in HEALTHY else {}
            for name, numbers in (healthy | changed.get(instance, {})).items():
                bare, _, labels = name.rstrip("}").partition("{")
                target = f'job="streamspace-agent",instance="{instance}"'
                series.append({"series": f"{bare}{{{labels}{labels and ','}{target}}}", "values": numbers})
        found = [{"labels": f'{{alertname="{name}"}}', "value": count} for name, count in Counter(alerts).items()]
        expression = 'count by (alertname) (ALERTS{alertstate="firing"})'
        question = {"expr": expression, "eval_time": at, "exp_samples": found}
        test = {"interval": "1m", "input_series": series, "promql_expr_test": [question]}
        path = tmp_path / "test.yaml"
        path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
        promtool("test", "rules", str(path))

    return check


def test_prometheus_takes_the_rules(promtool):
    promtool("check", "rules", str(RULES))


def test_two_healthy_replicas_raise_no_alert(firing):
    firing({}, [])


@pytest.mark.parametrize(("alert", "replica", "changed"), FIRES)
def test_an_alert_fires_for_what_it_is_about_and_no_other_does(firing, alert, replica, changed):
    firing({replica: changed}, [alert])


def test_a_leader_lost_with_its_host_and_not_replaced_raises_every_alert_about_it(firing):
    firing({LEADER: lost(LEADER, 30)}, [WITHOUT_LEADER, LINK_DOWN, UNREACHABLE])


def test_a_control_plane_that_is_away_is_told_though_replica_after_replica_tries(firing):
    turns = {LEADER: "1x60 0 1 0 1 0 1", STANDBY: "0x60 1 0 1 0 1 0"}
    leads = 'streamspace_agent_role{role="leader"}'
    changed = {one: {leads: turn, "streamspace_agent_link_up": "1x60 0x30"} for one, turn in turns.items()}
    firing(changed, [LINK_DOWN], "66m")


@pytest.mark.parametrize(
    ("at", "alerts"), [("85m", [ALL_GONE, *2 * [UNREACHABLE]]), ("24h", [ALL_GONE, *2 * [UNREACHABLE]]), ("26h", [])]
)
def test_an_agent_without_any_replica_is_missed_for_a_day(firing, at, alerts):
    firing({replica: lost(replica, 1600) for replica in HEALTHY}, alerts, at)


def test_ports_of_a_range_that_no_replica_uses_raise_no_alert(firing):
    firing({UNUSED: {"up": "0x90"}}, [])


@pytest.mark.parametrize(("at", "alerts"), [("24h", [UNREACHABLE]), ("26h", [])])
def test_a_port_that_a_replica_used_is_missed_for_a_day(firing, at, alerts):
    healthy = {name: values.replace("x90", "x1700") for name, values in {INFO: "1x90", **HEALTHY[LEADER]}.items()}
    firing({LEADER: healthy, STANDBY: lost(STANDBY, 1600)}, alerts, at)


def test_every_alert_is_shown_to_fire():
    named = {line.partition("alert: ")[2] for line in RULES.read_text().splitlines() if "- alert: " in line}
    assert named == {alert for alert, _, _ in FIRES} | {ALL_GONE}
