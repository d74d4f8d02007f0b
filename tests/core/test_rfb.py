import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamspace_agent.tunnel.rfb import ClientActivity, ClientStream

HELLO = b"RFB 003.008\n\x01\x01"
REQUEST = b"\x03\x01" + bytes(8)
KEY = b"\x04\x01\x00\x00" + (0x61).to_bytes(4)
POINTER = b"\x05\x00\x00\x10\x00\x10"
TEXT = b"\x06\0\0\0" + (5).to_bytes(4) + b"\x04\x04\x04\x04\x04"
FENCE = b"\xf8\0\0\0" + (1).to_bytes(4) + b"\x03abc"
FENCE_REQUEST = b"\xf8\0\0\0" + (0x80000001).to_bytes(4) + b"\0"

MESSAGES = {
    "SetPixelFormat": (bytes(20), ClientActivity.NOTHING),
    "SetEncodings": (b"\x02\0" + (2).to_bytes(2) + bytes(8), ClientActivity.NOTHING),
    "FramebufferUpdateRequest": (REQUEST, ClientActivity.READ),
    "KeyEvent": (KEY, ClientActivity.INPUT),
    "PointerEvent": (POINTER, ClientActivity.INPUT),
    "ClientCutText": (TEXT, ClientActivity.NOTHING),
    "extended ClientCutText": (b"\x06\0\0\0" + (-5).to_bytes(4, signed=True) + bytes(5), ClientActivity.NOTHING),
    "EnableContinuousUpdates": (b"\x96" + bytes(9), ClientActivity.NOTHING),
    "fence answered": (FENCE, ClientActivity.READ),
    "fence requested": (FENCE_REQUEST, ClientActivity.NOTHING),
    "xvp": (b"\xfa\0\x01\x02", ClientActivity.NOTHING),
    "SetDesktopSize": (b"\xfb\0" + bytes(4) + b"\x02\0" + bytes(32), ClientActivity.NOTHING),
    "QEMU key": (b"\xff\0" + bytes(10), ClientActivity.INPUT),
    "QEMU audio on": (b"\xff\x01\0\0", ClientActivity.NOTHING),
    "QEMU audio format": (b"\xff\x01\0\x02" + bytes(6), ClientActivity.NOTHING),
}


def connected(hello=HELLO):
    stream = ClientStream()
    assert stream.feed(hello) == ClientActivity.READ
    return stream


@pytest.mark.parametrize("name", MESSAGES)
def test_each_message_is_told_by_its_length_and_what_follows_is_still_understood(name):
    data, said = MESSAGES[name]
    stream = connected()
    assert stream.feed(data * 3) == said
    assert stream.feed(POINTER) == ClientActivity.INPUT
    assert stream.feed(REQUEST) == ClientActivity.READ
    assert not stream.opaque


@given(st.lists(st.sampled_from(sorted(MESSAGES)), max_size=20), st.lists(st.integers(1, 40), max_size=60))
def test_how_the_bytes_are_cut_changes_nothing(names, cuts):
    data = HELLO + b"".join(MESSAGES[name][0] for name in names)
    whole, pieces, said = ClientStream().feed(data), ClientStream(), ClientActivity.NOTHING
    for cut in [*cuts, len(data)]:
        said |= pieces.feed(data[:cut])
        data = data[cut:]
    assert said == whole
    assert not pieces.opaque


def test_a_key_inside_a_pasted_text_is_no_input():
    stream = connected()
    assert stream.feed(b"\x06\0\0\0" + (80_000).to_bytes(4)) == ClientActivity.NOTHING
    for _ in range(10):
        assert stream.feed(KEY * 1000) == ClientActivity.NOTHING
    assert stream.feed(KEY) == ClientActivity.INPUT


@pytest.mark.parametrize("hello", [b"RFB 003.007\n\x01\x01", b"RFB 003.008\n\x02" + bytes(16) + b"\x01"])
def test_handshakes_without_and_with_a_password_are_followed(hello):
    assert connected(hello).feed(KEY) == ClientActivity.INPUT


@pytest.mark.parametrize(
    ("kind", "answer"),
    [(1, []), (2, [bytes(16)]), (256, [(3).to_bytes(4) + (6).to_bytes(4), b"ann", b"sec", b"ret"])],
    ids=["none", "password", "user"],
)
def test_a_browser_goes_through_vencrypt_without_tls(kind, answer):
    """TigerVNC names it first, and the viewer takes the first that it knows."""
    stream = ClientStream()
    for piece in (b"RFB 003.008\n", b"\x13", b"\x00\x02", kind.to_bytes(4), *answer, b"\x01"):
        stream.feed(piece)
    assert not stream.opaque
    assert stream.feed(REQUEST) == ClientActivity.READ
    assert stream.feed(KEY) == ClientActivity.INPUT


def test_vencrypt_with_tls_cannot_be_followed():
    stream = ClientStream()
    stream.feed(b"RFB 003.008\n\x13\x00\x02" + (257).to_bytes(4))
    assert stream.opaque


@pytest.mark.parametrize(("security", "answer"), [(1, b""), (2, bytes(16))])
def test_the_oldest_handshake_takes_its_security_type_from_the_server(security, answer):
    stream = ClientStream()
    stream.server_head = b"RFB 003.003\n"
    stream.feed(b"RFB 003.003\n")
    stream.server_head += security.to_bytes(4)  # in answer to the viewer's version
    stream.feed(answer + b"\x00")
    assert not stream.opaque
    assert stream.feed(KEY) == ClientActivity.INPUT


def test_an_eighth_button_is_no_longer_message_unless_the_viewer_offered_them():
    assert connected().feed(b"\x05\x80" + bytes(4) + REQUEST) == ClientActivity.INPUT | ClientActivity.READ
    stream = connected()
    stream.feed(b"\x02\0" + (1).to_bytes(2) + (-316).to_bytes(4, signed=True))
    assert stream.feed(b"\x05\x80" + bytes(5) + REQUEST) == ClientActivity.INPUT | ClientActivity.READ
    assert not stream.opaque


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", HELLO[:12] + b"\x12", HELLO + b"\xb2", HELLO + b"\xff\x07"])
def test_what_is_not_understood_counts_as_a_person_but_for_bare_update_requests(start):
    stream = ClientStream()
    assert ClientActivity.INPUT in stream.feed(start)
    assert stream.opaque
    assert stream.feed(b"anything") == ClientActivity.READ | ClientActivity.INPUT
    assert stream.feed(REQUEST * 2) == ClientActivity.READ


# What is filtered on its way to the server

HANDSHAKE = b"RFB 003.008\n\x01\x01"
FENCES, CONTINUOUS = (-312).to_bytes(4, signed=True), (-313).to_bytes(4, signed=True)


def filtered(*pieces, hold_after=None):
    stream, passed = ClientStream(filtered=True), []
    for number, piece in enumerate(pieces):
        stream.hold_requests = hold_after is not None and number > hold_after
        stream.feed(piece)
        passed.append(stream.passed())
    return stream, b"".join(passed)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_what_is_filtered_leaves_in_whole_messages_however_it_came(size):
    said = HANDSHAKE + b"\x04\x01\0\0\0\0\0a" + b"\x06\0\0\0\0\0\0\x05hello" + b"\x03\x01" + bytes(8)
    _, passed = filtered(*(said[start : start + size] for start in range(0, len(said), size)))
    assert passed == said


def test_half_a_message_waits_for_its_other_half():
    key = b"\x04\x01\0\0\0\0\0a"
    stream, passed = filtered(HANDSHAKE, key[:5])
    assert passed == HANDSHAKE
    stream.feed(key[5:])
    assert stream.passed() == key


def test_a_server_is_not_told_that_the_viewer_knows_continuous_updates():
    told = b"\x02\0" + (3).to_bytes(2) + CONTINUOUS + FENCES + bytes(4)
    _, passed = filtered(HANDSHAKE, told)
    assert passed == HANDSHAKE + b"\x02\0" + (2).to_bytes(2) + FENCES + bytes(4)


def test_requests_for_updates_are_kept_back_and_nothing_else():
    request, key = b"\x03\x01" + bytes(8), b"\x04\x01\0\0\0\0\0a"
    _, passed = filtered(HANDSHAKE, request, key + request + key, hold_after=1)
    assert passed == HANDSHAKE + request + key + key


def test_a_viewer_that_cannot_be_understood_is_passed_on_as_it_is():
    odd = b"\xfeodd" * 1000
    _, passed = filtered(HANDSHAKE, odd, odd)
    assert passed == HANDSHAKE + odd + odd
