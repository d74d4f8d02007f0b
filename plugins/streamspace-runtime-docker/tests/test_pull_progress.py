"""What an engine tells of a pull, summed up: bytes, percentages, and whether it stands still."""

from streamspace_runtime_docker.images.progress import PullProgress


def downloading(layer, current, total):
    return {"id": layer, "status": "Downloading", "progressDetail": {"current": current, "total": total}}


def told(lines):
    """The progress after each line."""
    layers = PullProgress()
    return [layers.progress() for line in lines if layers.take(line) is not None]


def test_bytes_are_summed_over_layers():
    layers = PullProgress()
    layers.take({"status": "Pulling from library/x", "id": "1"})
    for layer in ("a", "c"):
        layers.take({"id": layer, "status": "Pulling fs layer"})
    layers.take({"id": "b", "status": "Already exists"})
    layers.take(downloading("a", 10, 100))
    layers.take(downloading("c", 50, 300))
    assert (layers.progress().current, layers.progress().total, layers.progress().percent) == (60, 400, 15)
    layers.take({"id": "a", "status": "Download complete"})
    assert (layers.progress().current, layers.progress().total) == (150, 400)
    layers.take({"id": "c", "status": "Download complete"})
    layers.take({"id": "a", "status": "Extracting", "progressDetail": {"current": 7, "total": 100}})
    progress = layers.progress()
    assert (progress.percent, progress.detail) == (100, "unpacking, 0 of 2 layers")
    layers.take({"id": "a", "status": "Pull complete"})
    assert layers.progress().detail == "1 of 2 layers"


def test_bytes_are_told_in_words_until_every_layers_size_is_known():
    [*_, first, second] = told(
        [
            {"id": "a", "status": "Pulling fs layer"},
            {"id": "b", "status": "Waiting"},
            downloading("a", 5_000_000, 10_000_000),
            downloading("b", 1, 30_000_000),
        ]
    )
    assert (first.current, first.total, first.percent) == (5_000_000, 0, None)
    assert first.detail == "4.8 MiB so far, 0 of 2 layers"
    assert (second.percent, second.detail) == (12, "0 of 2 layers")


def test_a_percentage_never_falls():
    """A layer may be fetched anew, or be announced late."""
    steps = told(
        [
            downloading("a", 50, 100),
            downloading("b", 1, 100),
            downloading("b", 90, 100),
            downloading("a", 0, 100),
            downloading("a", 100, 100),
        ]
    )
    assert [step.percent for step in steps] == [50, None, 70, None, 95]


def test_a_layer_that_was_there_at_once_has_no_size_and_keeps_no_percentage_back():
    steps = told(
        [
            {"id": "a", "status": "Pulling fs layer"},
            {"id": "b", "status": "Pulling fs layer"},
            {"id": "a", "status": "Download complete"},
            downloading("b", 30, 100),
        ]
    )
    assert [step.percent for step in steps] == [None, None, None, 30]


def test_of_a_layer_whose_size_is_never_told_the_bytes_count_and_no_percentage():
    first, second = told([downloading("a", 2_097_152, -1), {"id": "a", "status": "Download complete"}])
    assert (first.percent, first.detail) == (None, "2 MiB so far, 0 of 1 layers")
    assert (second.current, second.percent) == (2_097_152, 100)


def test_a_layer_that_is_there_whole_is_being_checked_and_one_without_a_size_is_not():
    layers = PullProgress()
    layers.take(downloading("a", 100, 100))
    assert layers.busy()
    layers.take(downloading("a", 100, 0))
    assert not layers.busy()


def test_trying_again_and_saying_the_same_are_no_progress():
    layers = PullProgress()
    assert layers.take(downloading("a", 10, 100))
    assert not layers.take(downloading("a", 10, 100))
    assert layers.take({"id": "a", "status": "Retrying in 2 seconds"}) is False
    assert layers.take(downloading("a", 11, 100))


def test_seconds_that_pass_are_no_progress():
    layers = PullProgress()
    assert layers.take({"id": "a", "status": "Extracting", "progressDetail": {"current": 1, "units": "s"}})
    assert not layers.take({"id": "a", "status": "Extracting", "progressDetail": {"current": 2, "units": "s"}})
    assert layers.busy()


def test_a_pull_waits_for_slots_or_for_the_disk_only_where_nothing_is_being_fetched():
    layers = PullProgress()
    assert not layers.queued(), "the registry has not answered"
    assert not layers.busy()
    layers.take({"id": "a", "status": "Pulling fs layer"})
    layers.take({"id": "b", "status": "Waiting"})
    layers.take({"id": "c", "status": "Already exists"})
    assert layers.queued()
    layers.take({"id": "d", "status": "Download complete"})
    assert layers.queued(), "what came first waits for what is before it"
    layers.take(downloading("a", 1, 10))
    assert not layers.queued(), "it has a slot, and nothing comes"
    assert not layers.busy()
    layers.take({"id": "b", "status": "Download complete"})
    assert not layers.busy()
    for status in ("Verifying Checksum", "Download complete", "Extracting"):
        layers.take({"id": "a", "status": status})
        assert layers.busy()
    layers.take({"id": "a", "status": "Pull complete"})
    layers.take({"id": "b", "status": "Pull complete"})
    layers.take({"id": "d", "status": "Pull complete"})
    assert not layers.busy()
