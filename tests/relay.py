"""Which kind of viewer relay the control planes of this suite have where a test does not choose."""

KIND = "repaired"
"""Of the browser's and the integration tests; their agents are told the same."""
