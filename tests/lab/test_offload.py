"""Handshakes whose signatures an engine makes in a thread of its own, pausing them meanwhile."""

import os
import threading

import pytest
from OpenSSL import SSL

from peer import HELLO, Connection
from relay import BUILD, CONTROL_V4, eventually

ENGINE = os.path.join(BUILD, "tests", "engine", "defer.so")


@pytest.mark.relay(crypto={"engine": ENGINE, "required": "yes"})
def test_paused_and_resumed(relay, join, neighbours):
    """Full handshakes wait for the engine; rekeys, which sign nothing, don't."""
    before = relay.admin("status")["handshakes"]
    alice, bob = join("alice"), join("bob")
    after = relay.admin("status")["handshakes"]
    assert after["offloaded"] >= before["offloaded"] + 2
    alice.rekey()
    assert alice.resumed
    assert relay.admin("status")["handshakes"]["offloaded"] == after["offloaded"]
    bob.wait_tag(alice.send(bob.identity.id))


@pytest.mark.relay(crypto={"engine": ENGINE, "required": "yes"})
def test_many_at_a_time(relay, join, neighbours, federation):
    """They wait beside each other, some for peers that are gone by then."""
    identities = [federation.peer(f"deferred{number}") for number in range(8)]
    results = []

    def shake(identity, abandon):
        for turn in range(5):
            try:
                connection = Connection(identity, federation.trust, CONTROL_V4)
                if abandon:
                    connection.abandon()
                    continue
                results.append("index" in connection.ask(HELLO))
                connection.close()
            except (SSL.Error, OSError) as error:
                results.append(error)
    threads = [threading.Thread(target=shake, args=(identity, number % 2))
               for number, identity in enumerate(identities)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    welcome = [result for result in results if result is True]
    # takeovers of one identity are limited
    assert len(welcome) >= 4 and all(isinstance(result, bool) for result in results), results
    eventually(lambda: relay.admin("status")["handshakes"]["open"] == 0)


@pytest.mark.relay(crypto={"engine": ENGINE, "async": "no"})
def test_without_async(relay, join, neighbours):
    join("alice")
    assert relay.admin("status")["handshakes"]["offloaded"] == 0


@pytest.mark.relay(crypto={"engine": "nobody-has-this", "provider": "nor-this"})
def test_missing(relay, join, neighbours):
    """A warning each, and all works."""
    lines = relay.said("no crypto offload")
    assert [line["name"] for line in lines] == ["nobody-has-this", "nor-this"]
    join("alice")


@pytest.mark.parametrize("kind", ["engine", "provider"])
def test_missing_but_required(make_relay, kind):
    relay = make_relay(crypto={kind: "nobody-has-this", "required": "yes"})
    with pytest.raises(AssertionError, match="viaductd ended"):
        relay.start()
    assert f"crypto.{kind}: nobody-has-this can't be loaded" in relay.log()
