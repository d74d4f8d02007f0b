"""Starting a session: creating its container, running it, and waiting until people can use it."""
