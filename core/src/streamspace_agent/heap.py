"""The process's memory."""

KEPT = 4 * 1024**2


def keep() -> None:
    """Let the C library keep what large buffers free, for the next ones.

    glibc returns free memory at the heap's end to the kernel from 256 KiB on, and fetches it again for the next message, page
    by page: three quarters of the time of a full tunnel. Once a block of this size was freed it keeps twice as much.
    """
    bytes(KEPT)  # never touched, so it costs nothing
