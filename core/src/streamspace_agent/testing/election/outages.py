"""The tests of election backends about outages: a store that does not answer has said neither yes nor no."""

from streamspace_agent.testing.election.fixtures import (
    UNKNOWN,
    Make,
    Outage,
    answered,
    candidate,
    grant_of,
    one_leads,
    outcome,
    seen_by,
)
from streamspace_agent.testing.suite import Suite


class Outages(Suite):
    async def test_a_renewal_in_an_outage_is_neither_yes_nor_no(self, make: Make, outage: Outage) -> None:
        one = await make()
        grant = await grant_of(one, candidate(one))
        with outage():
            for _ in range(3):
                assert await outcome(one, one.renew(grant)) is UNKNOWN
        renewed = await answered(lambda: one.renew(grant))
        assert renewed.record.same_tenure(grant.record)

    async def test_a_look_in_an_outage_shows_nothing_old_and_nothing_empty(self, make: Make, outage: Outage) -> None:
        one, other, grant = await one_leads(make)
        await other.observe()
        with outage():
            for backend in (one, other):
                answer = await outcome(backend, backend.observe())
                assert answer is UNKNOWN, "observe() answered although the store did not"
        assert (await answered(lambda: seen_by(other))).same_tenure(grant.record)

    async def test_a_candidate_in_an_outage_gets_neither_the_lease_nor_a_refusal(
        self, make: Make, outage: Outage
    ) -> None:
        one, other, grant = await one_leads(make)
        await other.observe()
        with outage():
            assert await outcome(other, other.acquire(candidate(other, "other"), None)) is UNKNOWN
            assert await outcome(other, other.holder_is_dead(grant.record)) is not True
        await answered(lambda: one.renew(grant))

    async def test_a_release_in_an_outage_is_not_confirmed_unless_it_was_made(self, make: Make, outage: Outage) -> None:
        one, other, grant = await one_leads(make)
        with outage():
            confirmed = await outcome(one, one.release(grant)) is not UNKNOWN
        if confirmed:
            assert (await answered(lambda: seen_by(other))).released, "release() returned, but nothing was released"
        await answered(lambda: one.release(grant))
        assert (await seen_by(other)).released
