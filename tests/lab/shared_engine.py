"""Run by test_engine.py in a network namespace of its own: who stops an engine that several use."""

import sys

from lab.dockerd import answers
from lab.engine import MainEngine

engine = MainEngine({"STREAMSPACE_LAB": sys.argv[1]}, usual_host="unix:///nonexistent")
try:
    with engine.use(keep=False) as first:
        pass
    assert not answers(first), "its only user is gone"
    starter = engine.use(keep=False)
    host = starter.__enter__()
    with engine.use(keep=False):
        starter.__exit__(None, None, None)
        assert answers(host), "another one still uses it"
    assert not answers(host), "the last user is gone"
    with engine.use(keep=False) as named:
        told = MainEngine({"STREAMSPACE_LAB": sys.argv[1], "DOCKER_HOST": named}, usual_host="unix:///nonexistent")
        with told.use():
            pass
        assert answers(named), "one who was told its name leaves it alone"
    assert not answers(named), "who was told its name does not keep it"
    assert engine.up() == host
    with engine.use(keep=False):
        pass
    assert answers(host), "it was started to stay"
    assert engine.down()
    assert not answers(host)
    assert not engine.down()
finally:
    engine.down()
