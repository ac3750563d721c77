"""placeholder"""


def with_messages(markdown: str) -> str:
    """Return it."""
    return markdown
