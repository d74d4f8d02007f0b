import random

from streamspace_agent.tunnel.flow_control import MAX_CHUNK, Budget, Window, chunk, even

CHUNK = MAX_CHUNK // 2
ROOM = 1000


class Time:
    def __init__(self):
        self.seconds = 100.0

    def now(self):
        return self.seconds


def run(rate, base, seconds=100.0):
    """A link of so many bytes a second and so long a round trip, kept full. Returns the window and the last latency."""
    time = Time()
    window, probes, arrived, latency = Window(time), [], time.seconds, 0.0
    end = time.seconds + seconds
    while time.seconds < end:
        while window.open:
            arrived = max(arrived, time.seconds) + CHUNK / rate
            if probe := window.sent(CHUNK):
                probes.append((arrived + base, probe, time.seconds))
        due, probe, sent = probes.pop(0)
        time.seconds = max(time.seconds, due)
        latency = time.seconds - sent
        window.answered(probe, latency)
    return window, latency


def test_a_fast_link_is_kept_full():
    window, _ = run(rate=500e6, base=0.0002)
    assert window.size > 1 << 20


def test_a_long_way_gets_a_large_window():
    window, _ = run(rate=50e6, base=0.05)
    assert window.size / 0.05 > 0.8 * 50e6


def test_a_slow_link_holds_little_back_that_others_would_wait_behind():
    window, latency = run(rate=2e6, base=0.01)
    assert window.size <= 3 * Window.SMALLEST
    assert latency < 0.25


def test_however_many_viewers_stop_reading_the_queue_never_fills_and_one_that_reads_goes_on():
    budget, unread, dice = Budget(), [0] * 60, random.Random(3)
    for _ in range(100_000):
        one = dice.randrange(len(unread))
        if budget.allows(unread[one]):
            unread[one] += 1
            budget.used += 1
        assert budget.used <= Budget.LIMIT
        budget.used -= unread[0]
        unread[0] = 0
    assert budget.allows(0)


def test_one_viewer_alone_may_be_behind_by_the_largest_update_there_is():
    budget, unread, total = Budget(), 0, 0
    while budget.allows(unread):
        total += chunk(unread, budget.places(unread), Window.SMALLEST)
        unread += 1
        budget.used += 1
    assert total > 3840 * 2160 * 4


def test_a_window_that_shrinks_below_what_no_pong_will_tell_of_goes_on():
    time = Time()
    window, probes = Window(time), []
    for latency in [0.0001] * 200 + [0.5] * 40:
        sent = 0
        while window.open:
            sent += 1
            assert sent < 200
            if probe := window.sent(CHUNK // 3):
                probes.append(probe)
        assert probes, "nothing that is on its way will open the window again"
        time.seconds += latency
        window.answered(probes.pop(0), latency)
    assert window.size == Window.SMALLEST
    assert window.in_flight <= 2 * Window.SMALLEST


def test_pings_are_few_on_a_fast_way():
    time, probes, pings = Time(), [], 0
    window = Window(time)
    while time.seconds < 105:
        while window.open:
            if probe := window.sent(CHUNK):
                probes.append(probe)
                pings += 1
        probe = probes.pop(0)
        time.seconds += probe / 500e6
        window.answered(probe, window.in_flight / 500e6 + 0.0001)
    assert pings / (time.seconds - 100) < 1_500


def test_messages_are_small_where_the_way_is_narrow_unless_the_viewer_is_behind_or_places_are_few():
    assert chunk(0, ROOM, Window.SMALLEST) <= Window.SMALLEST / 2
    assert chunk(0, ROOM, Window.LARGEST) == MAX_CHUNK
    assert chunk(100, ROOM, Window.SMALLEST) == MAX_CHUNK
    assert chunk(0, 10, Window.SMALLEST) == MAX_CHUNK


def test_what_waits_goes_in_messages_of_one_size():
    assert even(10, 100) == 10
    assert even(389_120, 350_000) == 194_560
    assert [even(waiting, 100) for waiting in (100, 101, 250, 1)] == [100, 51, 84, 1]


def test_places_are_what_a_tunnel_may_send_until_it_is_blocked():
    for used, unread in [(0, 0), (180, 0), (200, 20), (239, 1), (240, 40)]:
        budget, sent = Budget(), 0
        budget.used = used
        promised = budget.places(unread)
        while budget.allows(unread + sent):
            sent += 1
            budget.used += 1
        assert sent == promised


def test_a_viewer_beside_many_greetings_may_still_be_behind_by_a_large_update():
    budget, unread, total = Budget(), 0, 0
    budget.used = Budget.GREETINGS
    while budget.allows(unread):
        total += chunk(unread, budget.places(unread), Window.SMALLEST)
        unread += 1
        budget.used += 1
    assert total > 1920 * 1080 * 4
