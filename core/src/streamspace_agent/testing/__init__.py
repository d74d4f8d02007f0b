"""The kit for tests of the agent and of its plugins. Needs the ``testing`` extra; the agent itself never imports it.

* :class:`~streamspace_agent.testing.election.ElectionBackendSuite`: what every election backend must pass
* :class:`~streamspace_agent.testing.runtime.RuntimeDriverSuite`: what every runtime driver must pass
* :class:`~streamspace_agent.testing.commands.CommandKit`: runs a command handler and holds it to the contract
* :mod:`~streamspace_agent.testing.memory`, :mod:`~streamspace_agent.testing.engine`: a backend and a driver in memory

Nothing is imported here, because pytest loads :mod:`streamspace_agent.testing.plugin` wherever the agent is installed.
"""
