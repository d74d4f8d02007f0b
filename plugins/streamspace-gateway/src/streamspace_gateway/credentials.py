"""What the control plane's proxy passes on of the person's sign-in, taken out: no session's server may act as that person.

It is the JSON Web Token by which the person is signed in at the control plane, in four places: the query's ``token``, the header
``Authorization: Bearer``, the cookie ``streamspace_proxy_token``, and the page's address in ``Referer``. Whatever else has one of these
names but not the shape of such a token is the desktop's own, and stays.
"""

import re

from streamspace_gateway.headers import Items

_TOKEN = rb"eyJ[\w-]+\.[\w-]+\.[\w-]+"
_IN_QUERY = re.compile(rb"(?<=[?&])token=" + _TOKEN + rb"(?:&|(?=#)|$)")
_BEARER = re.compile(rb"bearer +" + _TOKEN, re.IGNORECASE)
_COOKIE = re.compile(rb'streamspace_proxy_token="?' + _TOKEN + rb'"?')


def out_of_target(target: bytes) -> bytes:
    if b"token=" not in target:
        return target
    before, fragment, behind = target.partition(b"#")
    return _IN_QUERY.sub(b"", before).rstrip(b"?&") + fragment + behind if _IN_QUERY.search(before) else target


def out_of_headers(headers: Items) -> Items:
    """The headers without it; one of which nothing is left goes."""
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
                left = out_of_target(value)
        if left or not value:
            kept.append((name, left))
    return kept
