"""The tests of election backends about outages: a store that does not answer has said neither yes nor no."""

from collections.abc import Awaitable

from streamspace_agent.testing.election.fixtures import Make, Outage, answered, candidate, grant_of, outcome, seen_by
from streamspace_agent.testing.suite import Suite


async def _whatever(call: Awaitable[object]) -> bool:
    """True for any answer, None included, so that :func:`outcome` tells an answer from an unknown outcome."""
    await call
    return True


class Outages(Suite):
    async def test_a_renewal_in_an_outage_is_neither_yes_nor_no(self, make: Make, outage: Outage) -> None:
        one = await make()
        grant = await grant_of(one, candidate(one))
        with outage():
            for _ in range(3):
                assert await outcome(one, one.renew(grant)) is None
        renewed = await answered(lambda: one.renew(grant))
        assert renewed.record.same_tenure(grant.record)

    async def test_a_look_in_an_outage_shows_nothing_old_and_nothing_empty(self, make: Make, outage: Outage) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        await other.observe()
        with outage():
            for backend in (one, other):
                answer = await outcome(backend, _whatever(backend.observe()))
                assert answer is None, "observe() answered although the store did not"
        assert (await answered(lambda: seen_by(other))).same_tenure(grant.record)

    async def test_a_candidate_in_an_outage_gets_neither_the_lease_nor_a_refusal(
        self, make: Make, outage: Outage
    ) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        await other.observe()
        with outage():
            assert await outcome(other, other.acquire(candidate(other, "other"), None)) is None
            assert await outcome(other, other.holder_is_dead(grant.record)) is not True
        await answered(lambda: one.renew(grant))

    async def test_a_release_in_an_outage_is_not_confirmed_unless_it_was_made(self, make: Make, outage: Outage) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        with outage():
            confirmed = await outcome(one, _whatever(one.release(grant))) is not None
        if confirmed:
            assert (await answered(lambda: seen_by(other))).released, "release() returned, but nothing was released"

        async def release() -> None:
            await one.release(grant)

        await answered(release)
        assert (await seen_by(other)).released
