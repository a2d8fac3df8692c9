"""A hello that isn't one gets a clear answer, or none when it takes too long."""

import json
import socket
import time

import pytest
from OpenSSL import SSL

from peer import Connection
from relay import CONTROL_V4, PATIENCE, eventually

GOOD = {"viaduct": 1, "ciphers": ["aes-256-gcm"]}


@pytest.fixture
def connection(relay, federation, identities):
    connection = Connection(identities("mallory"), federation.trust, CONTROL_V4)
    yield connection
    connection.abandon()


def line(**fields):
    return json.dumps({**GOOD, **fields}).encode() + b"\n"


def without(field):
    return json.dumps({key: GOOD[key] for key in GOOD if key != field}).encode() + b"\n"


BAD = {
    "empty_line": (b"\n", "malformed"),
    "no_json": (b"hello\n", "malformed"),
    "half_json": (b'{"viaduct": 1, "ciphers": ["aes-256-gcm"]\n', "malformed"),
    "array": (b"[1]\n", "malformed"),
    "two_objects": (line()[:-1] + b"{}\n", "malformed"),
    "bad_utf8": (b'{"viaduct": 1, "ciphers": ["\xff\xfe"]}\n', "malformed"),
    "nul": (b"\x00" * 20 + b"\n", "malformed"),
    "deep": (b"[" * 4000 + b"\n", "malformed"),
    "too_long": (b" " * 4096 + line(), "too_long"),
    "too_long_without_end": (b"x" * 10000, "too_long"),
    "no_version": (without("viaduct"), "malformed"),
    "version_0": (line(viaduct=0), "version"),
    "version_2": (line(viaduct=2), "version"),
    "version_as_text": (line(viaduct="1"), "malformed"),
    "no_ciphers": (without("ciphers"), "malformed"),
    "ciphers_as_text": (line(ciphers="aes-256-gcm"), "malformed"),
    "ciphers_of_numbers": (line(ciphers=[2]), "malformed"),
    "ciphers_empty": (line(ciphers=[]), "cipher"),
    "ciphers_unknown": (line(ciphers=["rot13"]), "cipher"),
    "lanes_0": (line(lanes=0), "lanes"),
    "lanes_9": (line(lanes=9), "lanes"),
    "lanes_negative": (line(lanes=-1), "lanes"),
    "lanes_huge": (line(lanes=2 ** 40), "lanes"),
    "lanes_as_text": (line(lanes="2"), "malformed"),
    "lanes_real": (line(lanes=1.5), "malformed"),
    "mtu_small": (line(mtu=1279), "mtu"),
    "mtu_large": (line(mtu=9001), "mtu"),
    "mtu_as_list": (line(mtu=[1280]), "malformed"),
    "rekey_as_text": (line(rekey="now"), "malformed"),
    "rekey_without_mac": (line(rekey={"index": 1, "epoch": 0}), "malformed"),
    "rekey_bad_hex": (line(rekey={"index": 1, "epoch": 0, "mac": "zz" * 32}), "malformed"),
    "rekey_short_mac": (line(rekey={"index": 1, "epoch": 0, "mac": "00"}), "malformed"),
    "rekey_unknown": (line(rekey={"index": 1, "epoch": 0, "mac": "00" * 32}), "rekey"),
}


@pytest.mark.parametrize("case", BAD)
def test_clear_error(connection, case):
    hello, code = BAD[case]
    answer = connection.ask(hello)
    assert answer["error"] == code, answer
    assert answer["detail"]
    connection.close()


def test_neighbours_dont_notice(relay, federation, identities, neighbours):
    for hello, code in BAD.values():
        connection = Connection(identities("mallory"), federation.trust, CONTROL_V4)
        assert connection.ask(hello)["error"] == code
        connection.close()


def test_unknown_fields_are_ignored(connection):
    assert "index" in connection.ask(line(colour="green", later={"x": [1]}))
    connection.close()


def test_longest_line_is_taken(connection):
    hello = line()
    assert "index" in connection.ask(b" " * (4096 - len(hello)) + hello)
    connection.close()


def test_hello_in_two_halves(connection):
    connection.tls.sendall(line()[:10])
    time.sleep(0.1)
    assert "index" in connection.ask(line()[10:])
    connection.close()


def until_closed(connection, hello, pause=0):
    """Sends a hello byte by byte, and returns when the relay has given it up."""
    try:
        for byte in hello:
            connection.tls.sendall(bytes([byte]))
            time.sleep(pause)
        connection.answer()
    except SSL.Error:
        pass


@pytest.mark.relay(limits={"hello_timeout": 1})
@pytest.mark.parametrize("hello", [b"", line()[:10]], ids=["nothing", "half"])
def test_hello_that_never_ends(relay, connection, neighbours, hello):
    timed_out = relay.admin("status")["handshakes"]["timed_out"]
    until_closed(connection, hello)
    assert relay.admin("status")["handshakes"]["timed_out"] == timed_out + 1


@pytest.mark.relay(limits={"hello_timeout": 1})
def test_slow_hello(relay, connection, neighbours):
    timed_out = relay.admin("status")["handshakes"]["timed_out"]
    until_closed(connection, line(), 0.2)
    assert relay.admin("status")["handshakes"]["timed_out"] == timed_out + 1


@pytest.mark.relay(limits={"tls_timeout": 1})
def test_silent_tcp_connection(relay, neighbours):
    with socket.create_connection(CONTROL_V4, timeout=PATIENCE) as sock:
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass


@pytest.mark.relay(limits={"hello_timeout": 2, "handshakes": 8})
def test_too_many_silent_connections(relay, join, neighbours):
    """They take all places, until they time out; sessions don't care, and joining works again."""
    silent = [socket.create_connection(CONTROL_V4, timeout=PATIENCE) for number in range(30)]
    try:
        def joined():
            try:
                return join("late")
            except (OSError, SSL.Error):
                return None
        eventually(joined)
    finally:
        for sock in silent:
            sock.close()
