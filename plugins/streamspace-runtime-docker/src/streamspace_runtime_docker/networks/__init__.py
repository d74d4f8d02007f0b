"""The network that sessions share, what a container is attached to, and the way to a session's ports."""
