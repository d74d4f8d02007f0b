"""Pulls as an engine 28.5 with containerd's image store reported them: recorded there, replayed here.

Each line of a file is the time in seconds and what the engine sent, without its drawn bars. An image index is reported
as the one image of it that is pulled. Layers of 3 MB (nine layers: 1 MB) came at 3 MB/s (1.5 MB/s).
"""

import json
from pathlib import Path

import pytest

from streamspace_agent.errors import CommandFailed
from streamspace_runtime_docker.images.progress import PullProgress

DATA = Path(__file__).parent / "data"
STORE = ["driver-type", "io.containerd.snapshotter.v1"]


def recorded(name, speed=1.0):
    lines = (json.loads(line) for line in (DATA / f"containerd-{name}.jsonl").read_text().splitlines())
    return [(at / speed, line) for at, line in lines]


def summed(name):
    layers, steps = PullProgress(containerd=True), []
    for _, line in recorded(name):
        if layers.take(line):
            steps.append(layers.progress())
    return steps


@pytest.mark.parametrize("name", ["three-layers", "nine-layers", "taken-up"])
def test_percentages_rise_to_their_end_and_bytes_are_told_in_words_before(name):
    steps = summed(name)
    percents = [step.percent for step in steps if step.percent is not None]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert all("so far" in step.detail for step in steps if step.current and step.percent is None)
    assert not any("waits for the engine" in step.detail for step in steps)


def test_a_percentage_comes_with_the_last_layers_first_block():
    steps = summed("three-layers")
    assert [step.percent for step in steps if step.current][:3] == [None, None, 34]
    assert steps[-1].current == steps[-1].total == 9_006_318


def test_a_pull_that_was_cut_goes_on_where_it_was():
    first = next(step for step in summed("taken-up") if step.percent is not None)
    assert first.percent == 34


@pytest.fixture
def played(odd, tiny_image, make_driver):
    """Makes drivers of an engine with containerd's store on which the tiny image's pull is a recorded one."""
    odd.change("^GET /info", lambda info: {**info, "DriverStatus": [STORE]})
    odd.refuse("^GET /images/", 404, "no such image", times=1)

    def make(lines, timeout):
        odd.play("^POST /images/create", lines)
        return make_driver(odd=odd, environ={"PULL_STALL_TIMEOUT": timeout})

    return make


async def test_nine_layers_that_fill_their_first_block_in_silence_have_not_stalled(played, make_spec):
    driver, steps = played(recorded("nine-layers", speed=2), "1s"), []
    assert (await driver.start(make_spec(), steps.append)).ready
    assert [step.detail for step in steps if step.phase == "pulling"][-1] == "9 of 9 layers"


async def test_the_same_bytes_again_and_again_are_a_stall_after_the_time_of_each_layer(played, make_spec, quiet):
    lines = recorded("stalled")
    repeated = [(lines[-1][0] + n / 10, line) for n in range(100) for _, line in lines[-3:]]
    with pytest.raises(
        CommandFailed,
        match=r"pull_stalled: .* for 3\.0 s \(PULL_STALL_TIMEOUT, 1\.0 s for each.*3 MiB of 8\.6 MiB so far",
    ):
        await played([*lines, *repeated], "1s").start(make_spec(), quiet)


async def test_a_layer_that_is_written_out_or_unpacked_in_silence_has_not_stalled(played, make_spec):
    """Many gigabytes on a slow disk: the engine repeats the full size, then counts seconds."""
    lines = [line for line in recorded("three-layers") if line[1]["status"] != "Download complete"]
    fetched = [line for line in lines if line[1]["status"] == "Downloading"][-1]
    end = [line for line in lines if line[1]["status"] == "Pull complete"]
    ids = {line["id"] for _, line in end}
    full = [{**fetched[1], "id": name, "progressDetail": {"current": 3_002_106, "total": 3_002_106}} for name in ids]
    silent = [(n / 5, line) for n in range(10) for line in full]
    unpacking = [
        (2 + n, {"id": name, "status": "Extracting", "progressDetail": {"current": 1 + n, "units": "s"}})
        for n in range(3)
        for name in ids
    ]
    driver, steps = played([*silent, *unpacking, *((5, line) for _, line in end)], "300ms"), []
    assert (await driver.start(make_spec(), steps.append)).ready
    assert any(step.detail.startswith("unpacking") for step in steps)
