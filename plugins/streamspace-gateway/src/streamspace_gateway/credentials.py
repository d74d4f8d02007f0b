"""Removes the person's sign-in from requests, so that no session's server can act as that person at the control plane.

The sign-in is a JSON Web Token. The control plane's proxy passes it on in four places: the query's ``token``, the
header ``Authorization: Bearer``, the cookie ``streamspace_proxy_token``, and the page's address in ``Referer``. A value
with one of these names that does not look like such a token is the desktop's own, and stays.
"""

import re

from streamspace_gateway.headers import Items

_TOKEN = rb"eyJ[\w-]+\.[\w-]+\.[\w-]+"
_IN_QUERY = re.compile(rb"(?<=[?&])token=" + _TOKEN + rb"(?:&|(?=#)|$)")
_BEARER = re.compile(rb"bearer +" + _TOKEN, re.IGNORECASE)
_COOKIE = re.compile(rb'streamspace_proxy_token="?' + _TOKEN + rb'"?')


def clean_target(target: bytes) -> bytes:
    """The request's target without the sign-in."""
    if b"token=" not in target:
        return target
    before, fragment, behind = target.partition(b"#")
    return _IN_QUERY.sub(b"", before).rstrip(b"?&") + fragment + behind if _IN_QUERY.search(before) else target


def clean_headers(headers: Items) -> Items:
    """The headers without the sign-in; a header of which nothing is left is dropped."""
    kept: Items = []
    for name, value in headers:
        left = value
        match name.lower():
            case b"authorization":
                left = b"" if _BEARER.fullmatch(value.strip()) else value
            case b"cookie":
                cookies = [cookie.strip() for cookie in value.split(b";")]
                others = [cookie for cookie in cookies if not _COOKIE.fullmatch(cookie)]
                left = value if len(others) == len(cookies) else b"; ".join(others)
            case b"referer":
                left = clean_target(value)
        if left or not value:
            kept.append((name, left))
    return kept
