import pytest

from fiscus.api.guard import check_content_type, check_origin, client_address

HOSTS = [
    # Host, Origin, allowed hosts, keys required, field of the problem
    ("localhost:8091", None, (), False, None),
    ("127.0.0.1", None, (), False, None),
    ("[::1]:8091", None, (), False, None),
    ("LOCALHOST:8091", None, (), False, None),
    ("fiscus.example", None, (), False, "Host"),
    ("127.0.0.1.evil.example", None, (), False, "Host"),
    ("localhost:8091.evil.example", None, (), False, "Host"),
    ("localhost@evil.example", None, (), False, "Host"),
    ("", None, (), False, "Host"),
    ("fiscus.example", None, ("fiscus.example",), False, None),
    ("fiscus.example:443", None, (), True, None),
    ("fiscus.example", None, ("fiscus.example",), True, None),
    ("other.example", None, ("fiscus.example",), True, "Host"),
    ("localhost", None, ("fiscus.example",), True, "Host"),
    ("localhost:8091", "http://localhost:8091", (), False, None),
    ("localhost:8091", "http://localhost:3000", (), False, "Origin"),
    ("localhost:8091", "https://evil.example", (), False, "Origin"),
    ("localhost:8091", "null", (), False, "Origin"),
    ("fiscus.example", "https://fiscus.example", (), True, None),
    ("fiscus.example", "https://evil.example", (), True, "Origin"),
]


@pytest.mark.parametrize(("host", "origin", "allowed", "keys_required", "field"), HOSTS)
def test_no_other_host_and_no_other_site_gets_in(host, origin, allowed, keys_required, field):
    headers = {b"host": host.encode()} | ({b"origin": origin.encode()} if origin else {})
    problem = check_origin(headers, allowed, keys_required=keys_required)
    assert (problem.field if problem else None) == field
    assert problem is None or problem.status == 403


CONTENT_TYPES = [
    # method, content type, content length, does the route take a body, no keys, accepted
    ("POST", b"application/json", b"2", True, True, True),
    ("POST", b"Application/JSON; charset=UTF-8", b"2", True, True, True),
    ("POST", b'application/json; charset="utf-8"', b"2", True, True, True),
    ("POST", b"application/json; charset=latin-1", b"2", True, True, False),
    ("POST", b"text/plain", b"2", True, True, False),
    ("POST", b"application/x-www-form-urlencoded", b"0", False, True, False),
    ("POST", b"application/jsonx", b"2", True, False, False),
    ("POST", b"application/problem+json", b"2", True, False, False),
    ("POST", None, b"2", True, False, False),
    ("POST", None, b"0", True, True, False),
    ("POST", None, b"0", True, False, True),
    ("POST", None, b"0", False, False, True),
    ("POST", None, b"0", False, True, False),
    ("PUT", None, b"9", True, True, False),
    ("GET", None, b"0", False, True, True),
    ("DELETE", None, b"0", False, True, True),
]


@pytest.mark.parametrize(("method", "content_type", "length", "has_body", "strict", "accepted"), CONTENT_TYPES)
def test_what_a_web_page_can_send_without_asking_is_not_taken(method, content_type, length, has_body, strict, accepted):
    headers = {b"content-length": length} | ({b"content-type": content_type} if content_type is not None else {})
    problem = check_content_type(headers, method, has_body=has_body, strict=strict)
    assert (problem is None) is accepted
    assert problem is None or (problem.status, problem.field) == (415, "Content-Type")


def test_a_compressed_body_is_not_taken():
    headers = {b"content-type": b"application/json", b"content-encoding": b"gzip"}
    problem = check_content_type(headers, "POST", has_body=True, strict=False)
    assert problem is not None
    assert problem.field == "Content-Encoding"


ADDRESSES = [
    # peer, X-Forwarded-For, trusted proxies, address
    ("203.0.113.9", "198.51.100.1", (), "203.0.113.9"),
    ("10.0.0.1", "198.51.100.1", ("10.0.0.1",), "198.51.100.1"),
    ("10.0.0.1", "evil, 198.51.100.1", ("10.0.0.1",), "198.51.100.1"),
    ("10.0.0.1", "198.51.100.1, 10.0.0.2", ("10.0.0.1", "10.0.0.2"), "198.51.100.1"),
    ("10.0.0.1", "", ("10.0.0.1",), "10.0.0.1"),
]


@pytest.mark.parametrize(("peer", "forwarded", "trusted", "address"), ADDRESSES)
def test_only_trusted_proxies_say_where_a_request_comes_from(peer, forwarded, trusted, address):
    headers = {b"x-forwarded-for": forwarded.encode()} if forwarded else {}
    assert client_address({"client": (peer, 1)}, headers, frozenset(trusted)) == address


def test_a_request_without_a_peer_has_no_address():
    assert client_address({}, {}, frozenset()) == ""
