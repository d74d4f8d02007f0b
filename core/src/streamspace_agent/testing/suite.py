"""The base of conformance suites: a subclass may add tests and fixtures, but not drop or replace a standard test."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

Test = Callable[..., Awaitable[None]]


class Suite:
    """Base of the suites. Works in both modes of pytest-asyncio.

    A subclass that drops or replaces a standard test raises TypeError where it is defined, so that no test gets lost.
    """

    time_limit: ClassVar[float] = 60.0
    """Seconds that one test may take: a call that never returns fails its test and stops no other."""

    def __init_subclass__(cls) -> None:
        standard = {name for base in cls.__mro__ if issubclass(base, Suite) for name in vars(base) if _is_test(name)}
        replaced = sorted(name for name in standard if sum(name in vars(base) for base in cls.__mro__) > 1)
        if replaced:
            raise TypeError(f"{cls.__name__} replaces standard tests of the suite: {', '.join(replaced)}")
        if vars(cls).get("__test__", True) is not True:
            raise TypeError(f"{cls.__name__} sets __test__, which drops every standard test of the suite")
        for name, test in list(vars(cls).items()):
            if _is_test(name) and inspect.iscoroutinefunction(test):
                setattr(cls, name, pytest.mark.asyncio(_limited(test)))


def _is_test(name: str) -> bool:
    return name.startswith("test_")


def _limited(test: Test) -> Test:
    @functools.wraps(test)
    async def limited(self: Suite, *args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(self.time_limit):
            await test(self, *args, **kwargs)

    return limited
