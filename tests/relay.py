"""Which kind of viewer relay the control planes of this suite have where a test does not choose."""

KIND = "deployed"
REPAIRED = {"relay": "repaired"}
"""For `played`, where a test is about what only a repaired relay can do: viewers that take a screen from each other,
or are told why."""
"""Of the browser's and the integration tests; their agents are told the same."""
