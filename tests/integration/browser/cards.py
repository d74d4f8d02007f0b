"""What is on the first page, for tests to find it."""


def card(visitor, name="seen"):
    """The card of a session or an agent."""
    return visitor.page.get_by_role("article").filter(has=visitor.page.get_by_role("heading", name=name, exact=True))
