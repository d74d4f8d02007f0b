"""The nemesis' judge on made-up histories: it must reject what it is there for, and nothing else."""

import json

from tests.faults.nemesis import checker


def record(event, at, *, instance="a", epoch=10, deadline=None):
    return {"event": event, "instance": instance, "epoch": epoch, "boottime": at, "deadline": deadline}


def handover():
    """Epoch 10 of a until 5.0, epoch 11 of b from 6.0."""
    return [
        record("standing", 0.0, epoch=None),
        record("in", 1.0, deadline=4.0),
        record("renewed", 2.0, deadline=5.0),
        record("in", 6.0, instance="b", epoch=11, deadline=10.0),
    ]


def judge(records, deaths=None):
    tenures = checker.tenures(records, deaths)
    return checker.overlaps(tenures), checker.epochs_out_of_order(tenures)


def test_a_leader_that_begins_after_the_last_deadline_is_accepted():
    assert judge(handover()) == ([], [])


def test_a_leader_that_begins_before_the_last_ones_deadline_is_an_overlap():
    records = [*handover()[:3], record("in", 4.9, instance="b", epoch=11, deadline=9.0)]
    (found,), order = judge(records)
    assert "b acted in epoch 11 0.100 s before a had to stop in epoch 10" in found
    assert order == []


def test_an_earlier_end_of_work_counts_before_the_deadline():
    records = [*handover(), record("out", 2.5)]
    records[3]["boottime"] = 2.6
    assert judge(records) == ([], [])


def test_an_end_that_is_told_late_does_not_extend_what_the_deadline_allowed():
    assert judge([*handover(), record("over", 9.0), record("out", 9.1)]) == ([], [])


def test_a_leader_without_a_deadline_leads_until_its_death_is_known():
    records = [record("in", 1.0), record("in", 6.0, instance="b", epoch=11)]
    assert len(judge(records)[0]) == 1
    assert judge(records, {"a": 5.9}) == ([], [])
    assert len(judge(records, {"a": 6.1})[0]) == 1


def test_a_long_tenure_that_spans_two_short_ones_overlaps_both():
    records = [
        record("in", 1.0, deadline=20.0),
        record("in", 5.0, instance="b", epoch=11, deadline=6.0),
        record("in", 7.0, instance="c", epoch=12, deadline=8.0),
    ]
    assert len(judge(records)[0]) == 2


def test_a_lower_or_equal_epoch_later_is_out_of_order():
    for epoch in (9, 10):
        records = [*handover()[:3], record("in", 6.0, instance="b", epoch=epoch, deadline=10.0)]
        assert len(judge(records)[1]) == 1


def test_a_tenure_that_never_began_is_not_overlooked():
    assert len(judge([record("renewed", 2.0, deadline=5.0)])[0]) == 1


def test_two_beginnings_of_one_epoch_by_one_replica_are_not_overlooked():
    assert len(judge([record("in", 1.0, deadline=2.0), record("in", 3.0, deadline=4.0)])[0]) == 1


def did(event, at, command="c1", epoch=10):
    return {"event": event, "command": command, "epoch": epoch, "boottime": at}


def test_work_of_an_old_epoch_after_a_newer_began_is_found():
    tenures = checker.tenures(handover())
    assert checker.late_work(tenures, [did("begin", 4.0), did("end", 5.5)]) == []
    (found,) = checker.late_work(tenures, [did("begin", 5.9), did("end", 6.5)])
    assert "end of command c1 in epoch 10, 0.500 s after" in found


def test_work_in_an_epoch_that_nobody_led_is_found():
    assert len(checker.late_work(checker.tenures(handover()), [did("begin", 2.0, epoch=7)])) == 1


def heard(*epochs):
    return [{"type": "heartbeat", "payload": {"epoch": epoch}} for epoch in epochs]


def test_an_older_epoch_that_the_control_plane_accepts_after_a_newer_is_found():
    assert checker.older_accepted(heard(10, 10, 11, 12)) == []
    assert checker.older_accepted(heard(10, 11, 10)) == ["epoch 10 was heard after epoch 11"]


def said(kind, command, **more):
    return {"direction": "from_agent", "type": kind, "payload": {"commandId": command, **more}}


def test_commands_are_lost_when_taken_and_never_answered_and_undelivered_when_never_taken():
    events = [
        said("ack", "done"),
        said("complete", "done"),
        said("ack", "acked"),
        said("ack", "refused"),
        said("failed", "refused"),
    ]
    verdict = checker.commands(["done", "acked", "begun", "gone", "refused"], events, [did("begin", 1.0, "begun")])
    assert (verdict.lost, verdict.undelivered, verdict.twice) == (["acked", "begun"], ["gone"], [])


def test_a_command_done_twice_or_answered_in_two_ways_is_found():
    events = [
        said("complete", "c", result=1),
        said("complete", "c", result=1),
        said("complete", "d", result=1),
        said("failed", "d"),
    ]
    work = [did("end", 1.0, "e"), did("end", 2.0, "e"), did("begin", 1.0, "c"), did("begin", 2.0, "c")]
    assert checker.commands(["c", "d", "e"], events, work).twice == ["d", "e"]


def test_half_a_line_of_a_killed_writer_is_not_read(tmp_path):
    path = tmp_path / "trace"
    path.write_text(json.dumps(record("in", 1.0)) + "\n" + '{"event": "ren')
    assert checker.read(path) == [record("in", 1.0)]
