"""Addresses: the relay sends only where a challenge was echoed, or where the TLS came from."""

import json
import socket
import time

import pytest

from netns import PEER_V4, ROAMING_V4, VICTIM_V4
from peer import CONTROL, CONTROL_CLASS, PING, SEND, Message
from relay import CONTROL_V4, eventually


def local(peer):
    return peer.lane_sockets[0].getsockname()[:2]


def assert_reached_at(peer, address, sender):
    """What others send to the peer arrives at this address of its."""
    assert peer.wait_tag(sender.send(peer.identity.id)).local == address


def flush(peer):
    """Until the relay has seen to all that the peer sent before."""
    peer.wait_tag(peer.send(peer.relay, kind=PING))


@pytest.mark.parametrize("source", [PEER_V4, ROAMING_V4[0]], ids=["port", "address"])
def test_roaming(relay, join, neighbours, source):
    alice, bob = join("alice"), join("bob")
    old = local(alice)
    assert_reached_at(alice, old, bob)
    alice.move(source)
    alice.ping_relay()
    alice.wait_event("challenge")
    eventually(lambda: alice.poll(0.01) or alice.path == local(alice))
    assert local(alice) != old
    assert_reached_at(alice, local(alice), bob)
    assert relay.peers()[alice.identity.text]["address"].startswith(source)


def test_first_address_is_that_of_tls(join, neighbours):
    alice = join("alice", source=PEER_V4)
    assert [event["event"] for event in alice.events] == ["path"]


def test_first_address_is_another(join, neighbours):
    alice = join("alice", source=PEER_V4, data_source=ROAMING_V4[1])
    assert [event["event"] for event in alice.events] == ["challenge", "path"]
    assert alice.path[0] == ROAMING_V4[1]


def test_first_address_is_another_and_does_not_echo(make_peer, join, neighbours):
    alice = make_peer("alice", source=PEER_V4, data_source=ROAMING_V4[1])
    bob = join("bob")
    alice.join()
    alice.echo = False
    alice.ping_relay()
    alice.wait_event("challenge")
    bob.send(alice.identity.id)
    flush(bob)
    alice.poll(0.1)
    assert alice.path is None
    assert [message for message in alice.inbox if message.kind == SEND] == []


def test_roaming_by_an_old_record(join, neighbours):
    """Who captured a record and sends it from elsewhere, late, moves nothing."""
    alice, bob = join("alice"), join("bob")
    delayed = alice.seal([Message(SEND, bob.identity.id, b"delayed")])
    bob.wait_tag(alice.send(bob.identity.id))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind((ROAMING_V4[0], 0))
        elsewhere.connect(CONTROL_V4)
        elsewhere.send(delayed)
        bob.wait(lambda message: message.payload == b"delayed")
        for turn in range(3):
            flush(alice)
        assert_reached_at(alice, local(alice), bob)
        with pytest.raises(BlockingIOError):
            elsewhere.recv(65536, socket.MSG_DONTWAIT)


def test_roaming_without_echo(join, neighbours):
    alice, bob = join("alice"), join("bob")
    old, path = local(alice), alice.path
    alice.echo = False
    alice.move(ROAMING_V4[0])
    alice.ping_relay()
    alice.wait_event("challenge")
    for turn in range(20):
        alice.send(bob.identity.id)
        assert_reached_at(alice, old, bob)
    assert alice.path == path


def test_echo_of_something_else(join, neighbours):
    alice, bob = join("alice"), join("bob")
    old, path = local(alice), alice.path
    alice.echo = False
    alice.move(ROAMING_V4[0])
    alice.ping_relay()
    token = alice.wait_event("challenge")["token"]
    for wrong in "", token[:-1], token + token, "0" * len(token), "é", 7, None:
        request = json.dumps({"op": "echo", "token": wrong}).encode()
        tag = alice.send(alice.relay, request, CONTROL, klass=CONTROL_CLASS)
        eventually(lambda: alice.poll(0.01) or tag in alice.replies)
        assert not alice.replies[tag]["ok"], wrong
    assert_reached_at(alice, old, bob)
    assert alice.path == path


def test_echo_of_another_peers_token(join, neighbours):
    alice, bob = join("alice"), join("bob")
    old = local(alice)
    alice.echo = bob.echo = False
    alice.move(ROAMING_V4[0])
    bob.move(ROAMING_V4[1])
    alice.ping_relay()
    bob.ping_relay()
    alice.wait_event("challenge")
    token = bob.wait_event("challenge")["token"]
    assert not alice.control({"op": "echo", "token": token})["ok"]
    assert_reached_at(alice, old, bob)


def test_other_lanes_dont_move_it(join, neighbours):
    alice, bob = join("alice", lanes=2, spread=True), join("bob")
    path = alice.path
    for turn in range(5):
        bob.wait_tag(alice.send(bob.identity.id, lane=1))
        assert_reached_at(alice, local(alice), bob)
    assert alice.path == path
    assert "challenge" not in [event["event"] for event in alice.events]


def test_victims_address_claimed(join, neighbours):
    """At most the challenges reach a victim, though the attacker is authentic and keeps at it."""
    alice, bob = join("alice"), join("bob")
    alice.echo = False
    old = local(alice)
    alice.move(VICTIM_V4)
    victim = local(alice)
    start = time.monotonic()
    sent = 0
    while time.monotonic() - start < 2.5:
        alice.send(bob.identity.id)  # from the victim's address
        alice.send(alice.relay, bytes(1000), kind=PING)
        bob.send(alice.identity.id, b"for alice")
        sent += 1
        alice.poll(0.005)
        bob.poll(0)
    flush(bob)
    eventually(lambda: alice.poll(0.01) or
               sum(message.payload == b"for alice" for message in alice.inbox) == sent)
    assert {message.local for message in alice.inbox} == {old}
    challenges = [event for event in alice.events if event["event"] == "challenge"]
    assert 1 <= len(challenges) <= 2 + (time.monotonic() - start)
    assert alice.bad == []
    assert victim != old


def test_return_of_the_traveller(join, neighbours):
    """There and back again, each time after an echo."""
    alice, bob = join("alice"), join("bob")
    for source in ROAMING_V4[0], PEER_V4:
        alice.move(source)
        # a second between challenges
        eventually(lambda: alice.ping_relay() or alice.poll(0.1) or alice.path == local(alice))
        assert_reached_at(alice, local(alice), bob)
