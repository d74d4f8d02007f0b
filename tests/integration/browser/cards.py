"""What is on the first page, for tests to find it."""

from tests.integration.browser.desktop import NAME


def card(visitor, name=NAME):
    """The card of a session or an agent."""
    return visitor.page.get_by_role("article").filter(has=visitor.page.get_by_role("heading", name=name, exact=True))
