"""What a message is decoded to, however it is cut into parts."""

from streamspace_agent.controlplane.decoder import Decoder


def decode(message, part=None):
    data = message.encode("utf-8", "replace") if isinstance(message, str) else message
    decoder = Decoder()
    for start in range(0, len(data), part or max(1, len(data))):
        yield from (found for found in decoder.feed(data[start : start + part] if part else data) if found is not None)
    yield from decoder.close()
