"""A session's container: what it is made of, how it is found, what state it is in, and why it stopped."""
