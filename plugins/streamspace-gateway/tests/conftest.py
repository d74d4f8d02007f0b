import pytest

from tests.gateway import House


@pytest.fixture
async def house():
    async with House.open() as house:
        yield house
