"""Who has no business here is refused: by TLS itself, or by name, and in one line of log."""

import re
import socket

import pytest
from OpenSSL import SSL

from federation import CLIENT, SERVER, Federation
from peer import HELLO, Connection
from relay import CONTROL_V4, eventually

pytestmark = pytest.mark.parametrize("threads", [0, 2])


def talk(federation, identity, **options):
    """The relay's JSON answer to a good hello, or the text of its alert."""
    try:
        connection = Connection(identity, federation.trust, CONTROL_V4, **options)
    except SSL.Error as error:
        return str(error)
    try:
        return connection.ask(HELLO)
    except SSL.Error as error:
        return str(error)
    finally:
        connection.abandon()


def refused_once(relay, begin):
    """The one line that the log has about it."""
    def lines():
        return [line for line in relay.log_lines(begin) if line.get("level") != "debug"]
    eventually(lines)
    relay.admin("status")
    assert len(lines()) == 1, relay.log(begin)
    return lines()[0]


@pytest.fixture
def foreign(tmp_path):
    """Somebody else's CA, with our name on it."""
    return Federation(tmp_path / "foreign")


@pytest.fixture
def stranger(tmp_path):
    return Federation(tmp_path / "stranger", name="CA of nobody")


CASES = {
    "tls_1_2": ("protocol version", lambda federation, foreign, stranger: (
        federation.peer("mallory"), {"version": SSL.TLS1_2_VERSION})),
    "no_certificate": ("certificate required", lambda federation, foreign, stranger: (None, {})),
    "foreign_ca": ("unknown ca", lambda federation, foreign, stranger: (
        stranger.peer("mallory"), {})),
    "foreign_ca_of_our_name": ("unknown ca", lambda federation, foreign, stranger: (
        foreign.peer("mallory"), {})),
    "expired": ("certificate expired", lambda federation, foreign, stranger: (
        federation.issue("old", uris=["spiffe://lab/team/old"], since=-10, days=5), {})),
    "not_yet_valid": ("bad certificate", lambda federation, foreign, stranger: (
        federation.issue("early", uris=["spiffe://lab/team/early"], since=5), {})),
    "wrong_alpn": ("no application protocol", lambda federation, foreign, stranger: (
        federation.peer("mallory"), {"alpn": b"h2"})),
    "no_alpn": ("no application protocol", lambda federation, foreign, stranger: (
        federation.peer("mallory"), {"alpn": None})),
}


@pytest.mark.parametrize("case", CASES)
def test_alert(relay, federation, foreign, stranger, neighbours, case):
    alert, make = CASES[case]
    identity, options = make(federation, foreign, stranger)
    refused = relay.admin("status")["handshakes"]
    begin = relay.log_size()
    answer = talk(federation, identity, **options)
    assert isinstance(answer, str) and re.search(rf"alert {alert}", answer), answer
    refused_once(relay, begin)
    assert relay.admin("status")["handshakes"]["failed"] == refused["failed"] + 1


ROLES = {
    "relay_itself": lambda federation: federation.relay,
    "both_usages": lambda federation: federation.issue(
        "both", uris=["spiffe://lab/team/both"], usages=[CLIENT, SERVER]),
    "relay_name": lambda federation: federation.issue(
        "posing", uris=["spiffe://lab/relay/two"], usages=[CLIENT]),
    "no_usage": lambda federation: federation.issue(
        "useless", uris=["spiffe://lab/team/useless"], usages=[]),
    "other_trust_domain": lambda federation: federation.issue(
        "other", uris=["spiffe://elsewhere/team/other"]),
    "two_uris": lambda federation: federation.issue(
        "two", uris=["spiffe://lab/team/a", "spiffe://lab/team/b"]),
    "no_spiffe": lambda federation: federation.issue("web", uris=["https://lab/team/a"]),
    "no_path": lambda federation: federation.issue("bare", uris=["spiffe://lab"]),
    "empty_cluster": lambda federation: federation.issue("empty", uris=["spiffe://lab//a"]),
}


@pytest.mark.parametrize("case", ROLES)
def test_role_and_name(relay, federation, neighbours, case):
    begin = relay.log_size()
    answer = talk(federation, ROLES[case](federation))
    if isinstance(answer, str):
        assert "alert" in answer
    else:
        assert answer["error"] in ("role", "name")
        assert answer["detail"]
    refused_once(relay, begin)


def test_plain_text_and_noise(relay, neighbours):
    for noise in b"GET / HTTP/1.1\r\n\r\n", bytes(500), b"\x16\x03\x01\xff\xff" + bytes(600):
        with socket.create_connection(CONTROL_V4, timeout=10) as sock:
            sock.sendall(noise)
            while True:
                try:
                    if not sock.recv(4096):
                        break
                except ConnectionResetError:
                    break
