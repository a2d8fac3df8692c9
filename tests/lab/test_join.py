"""Joining, finding each other, and what peers say to each other."""

import json
import signal
import subprocess
import time

import pytest

from netns import PEER_V4, PEER_V6
from peer import (BULK, CONTROL, CONTROL_CLASS, CRITICAL, ERROR, FLAG_SEALED, HELLO, NORMAL, PING,
                  PONG, PUBLISH, REQUEST, RESPONSE, SEND, Message)
from relay import CONTROL_V4, CONTROL_V6, PATIENCE, eventually

NOBODY = bytes(range(16))
CIPHERS = ["aes-256-gcm", "chacha20-poly1305"]


@pytest.mark.parametrize("control, source", [(CONTROL_V4, PEER_V4), (CONTROL_V6, PEER_V6)],
                         ids=["v4", "v6"])
@pytest.mark.parametrize("cipher", CIPHERS)
def test_join(relay, join, control, source, cipher):
    alice = join("alice", control=control, ciphers=[cipher])
    welcome = alice.welcome
    assert welcome["cipher"] == cipher
    assert welcome["name"] == alice.identity.name
    assert welcome["mtu"] == 1280
    assert welcome["max_payload"] == 1280 - 120
    assert welcome["lanes"]["up"] == 1
    assert welcome["key_records"] <= 1 << 28
    assert welcome["relays"] == []
    assert alice.path == (source, alice.lane_sockets[0].getsockname()[1])
    seen = relay.peers()[alice.identity.text]
    assert seen["name"] == alice.identity.name
    assert seen["cluster"] == alice.identity.name.split("/")[3]
    assert seen["state"] == "joined"
    assert seen["index"] == alice.index
    assert seen["epoch"] == 0
    assert seen["cipher"] == cipher
    assert source in seen["address"]
    assert alice.identity.text in [route["id"] for route in relay.admin("routes")["routes"]]


def test_relay_takes_first_cipher_it_allows(join):
    assert join("alice", ciphers=CIPHERS[::-1]).welcome["cipher"] == "chacha20-poly1305"
    assert join("bob", ciphers=["rot13", "aes-256-gcm"]).welcome["cipher"] == "aes-256-gcm"


def test_messages_between_ciphers_and_ip_versions(join):
    alice = join("alice", control=CONTROL_V4, ciphers=["aes-256-gcm"])
    bob = join("bob", control=CONTROL_V6, ciphers=["chacha20-poly1305"])
    for sender, receiver in (alice, bob), (bob, alice), (alice, alice):
        for klass in BULK, NORMAL, CRITICAL:
            tag = sender.send(receiver.identity.id, b"hello", klass=klass, flags=FLAG_SEALED)
            message = receiver.wait_tag(tag)
            assert (message.kind, message.payload) == (SEND, b"hello")
            assert message.address == sender.identity.id
            assert message.hop_limit == 7
            assert message.flags == FLAG_SEALED
            assert message.record.klass == klass


@pytest.mark.parametrize("size", [0, 1, 17, 256, 1160])
def test_payload_sizes(join, size):
    alice, bob = join("alice"), join("bob")
    payload = bytes(n % 251 for n in range(size))
    assert bob.wait_tag(alice.send(bob.identity.id, payload)).payload == payload


def test_larger_mtu(join):
    alice, bob = join("alice", mtu=1500), join("bob", mtu=1500)
    assert alice.welcome["mtu"] == 1280, "the relay's own limit"
    assert bob.wait_tag(alice.send(bob.identity.id, bytes(1160))).payload == bytes(1160)


@pytest.mark.relay(data={"mtu": 1500})
def test_larger_mtu_on_both_sides(join):
    alice, bob = join("alice", mtu=1500), join("bob", mtu=1500)
    assert alice.welcome["max_payload"] == 1380
    assert bob.wait_tag(alice.send(bob.identity.id, bytes(1380))).payload == bytes(1380)


def test_several_messages_in_a_record(join):
    alice, bob, carol = join("alice"), join("bob"), join("carol")
    destinations = [bob, carol, bob, carol, carol, bob]
    alice.send_messages([Message(SEND, to.identity.id, bytes([tag]) * tag, tag)
                         for tag, to in enumerate(destinations, 1)])
    for tag, to in enumerate(destinations, 1):
        assert to.wait_tag(tag).payload == bytes([tag]) * tag
    assert bob.inbox == [] and carol.inbox == []


def test_all_lanes(join):
    alice, bob = join("alice", lanes=4, spread=True), join("bob")
    assert alice.lanes == 4
    for lane in range(4):
        bob.wait_tag(alice.send(bob.identity.id, lane=lane))


def test_request_and_response(join):
    alice, bob = join("alice"), join("bob")
    tag = alice.send(bob.identity.id, b"2 + 2", kind=REQUEST, tag=0xfeedface)
    request = bob.wait_tag(tag)
    assert (request.kind, request.payload) == (REQUEST, b"2 + 2")
    bob.send(request.address, b"4", kind=RESPONSE, tag=request.tag)
    response = alice.wait_tag(tag)
    assert (response.kind, response.payload) == (RESPONSE, b"4")
    assert response.address == bob.identity.id


def test_ping_relay_and_peer(join):
    alice, bob = join("alice"), join("bob")
    pong = alice.wait_tag(alice.send(alice.relay, b"are you there", kind=PING))
    assert (pong.kind, pong.payload, pong.address) == (PONG, b"are you there", alice.relay)
    tag = alice.send(bob.identity.id, b"and you", kind=PING)
    eventually(lambda: bob.poll(0.01) or tag in [m.tag for m in alice.poll(0.01)])
    pong = alice.wait_tag(tag)
    assert (pong.kind, pong.payload, pong.address) == (PONG, b"and you", bob.identity.id)


def test_peer_without_spiffe_id_goes_by_its_cn(relay, federation, join):
    plain = federation.issue("plain", cn="just a name")
    peer = join(plain)
    assert peer.welcome["name"] == "just a name"
    assert not relay.peers()[plain.text]["cluster"]


def test_resolve(federation, join):
    alice, bob = join("alice"), join("bob")
    twin = join(federation.issue("twin", uris=[bob.identity.name]))
    answer = alice.control({"op": "resolve", "name": bob.identity.name})
    assert answer["ok"]
    assert {peer["id"] for peer in answer["peers"]} == {bob.identity.text, twin.identity.text}
    assert {peer["name"] for peer in answer["peers"]} == {bob.identity.name}
    assert alice.control({"op": "resolve", "name": "spiffe://lab/team/nobody"}) == {
        "ok": True, "peers": []}


def list_peers(peer, cluster=None):
    request = {"op": "peers"} | ({"cluster": cluster} if cluster else {})
    peers = []
    while True:
        answer = peer.control(request)
        assert answer["ok"]
        peers += answer["peers"]
        if not answer.get("more"):
            return peers
        request["after"] = peers[-1]["id"]


def test_list_peers_of_cluster(join):
    crowd = [join(f"peer-{number}") for number in range(40)]
    cluster = crowd[0].identity.name.split("/")[3]
    listed = list_peers(crowd[0], cluster)
    assert [peer["id"] for peer in listed] == [
        peer.identity.text for peer in sorted(crowd, key=lambda peer: peer.identity.id)]
    everybody = list_peers(crowd[0])
    assert {peer["id"] for peer in listed} <= {peer["id"] for peer in everybody}
    assert list_peers(crowd[0], "nobody-here") == []


def test_control_that_is_not_understood(join):
    alice = join("alice")
    assert alice.control({"op": "relays"}) == {"ok": True, "relays": []}
    answer = alice.control({"op": "fly"})
    assert (answer["ok"], answer["error"]) == (False, "unsupported")
    for nonsense in b"", b"{", b"[]", b'{"op":7}', b"\xff" * 100, b'{"op":"resolve"}':
        tag = alice.send(alice.relay, nonsense, kind=CONTROL, klass=CONTROL_CLASS)
        eventually(lambda: alice.poll(0.01) or tag in alice.replies)
        answer = alice.replies.pop(tag)
        assert (answer["ok"], answer["error"]) == (False, "malformed"), nonsense


def test_leave(relay, join, neighbours):
    alice, bob = join("alice"), join("bob")
    assert alice.leave() == {"ok": True}
    eventually(lambda: alice.identity.text not in relay.peers())
    assert bob.wait_tag(bob.send(alice.identity.id)).reason == "no_route"


def test_come_back_after_leaving(join):
    alice, bob = join("alice"), join("bob")
    old = alice.index
    alice.leave()
    alice.connect()
    assert alice.index != old
    alice.wait_tag(bob.send(alice.identity.id))


@pytest.mark.parametrize("kind, reason", [(SEND, "no_route"), (REQUEST, "no_route"),
                                          (PUBLISH, "no_route")])
def test_sender_is_told(relay, join, neighbours, kind, reason):
    alice = join("alice")
    before = relay.drops()
    tag = alice.send(NOBODY, b"payload", kind=kind)
    error = alice.wait_tag(tag)
    assert error.reason == reason
    assert (error.address, error.payload) == (alice.relay, b"")
    relay.expect_drops(before, messages={reason: 1})


def test_publish_to_a_peer(relay, join, neighbours):
    alice, bob = join("alice"), join("bob")
    before = relay.drops()
    error = alice.wait_tag(alice.send(bob.identity.id, b"payload", kind=PUBLISH))
    assert error.reason == "unsupported"
    relay.expect_drops(before, messages={"unsupported": 1})


@pytest.mark.parametrize("kind, reason", [(RESPONSE, "no_route"), (PING, "no_route"),
                                          (PONG, "no_route"), (8, "unsupported"),
                                          (0, "unsupported"), (ERROR | 1, "unsupported")])
def test_sender_is_not_told(relay, join, neighbours, kind, reason):
    alice = join("alice")
    before = relay.drops()
    alice.send(NOBODY, b"payload", kind=kind)
    relay.expect_drops(before, messages={reason: 1})
    alice.wait_tag(alice.send(alice.relay, kind=PING))
    assert alice.inbox == []


def test_hop_limit(relay, join, neighbours):
    alice, bob = join("alice"), join("bob")
    assert bob.wait_tag(alice.send(bob.identity.id, hop_limit=1)).hop_limit == 0
    before = relay.drops()
    assert alice.wait_tag(alice.send(bob.identity.id, hop_limit=0)).reason == "hop_limit"
    relay.expect_drops(before, messages={"hop_limit": 1})
    assert bob.inbox == []


@pytest.mark.relay(data={"mtu": 1500})
def test_too_large(relay, join, neighbours):
    alice, bob = join("alice", mtu=1500), join("bob")
    before = relay.drops()
    assert alice.wait_tag(alice.send(bob.identity.id, bytes(1300))).reason == "too_large"
    relay.expect_drops(before, messages={"too_large": 1})
    assert bob.inbox == []


def test_errors_are_limited(relay, join, neighbours):
    alice = join("alice")
    before = relay.drops()
    start = time.monotonic()
    for record in range(100):
        alice.send_messages([Message(SEND, NOBODY, b"", alice.tag()) for message in range(10)])
    relay.expect_drops(before, messages={"no_route": 1000})
    alice.wait_tag(alice.send(alice.relay, kind=PING))
    allowed = 200 + 100 * (time.monotonic() - start)
    errors = [message for message in alice.inbox if message.reason == "no_route"]
    assert 200 <= len(errors) <= allowed + 1
    assert len({error.tag for error in errors}) == len(errors)


@pytest.mark.relay(session={"keepalive": 1, "expiry": 4})
def test_keepalive_and_expiry(relay, join, watch, neighbours):
    awake, silent = join("awake"), join("silent")
    assert awake.welcome["keepalive"] == 1
    assert awake.welcome["expiry"] == 4
    eventually(lambda: awake.poll(0.05) or silent.identity.text not in relay.peers())
    joined, expired = watch(silent), watch(silent)
    assert (joined["event"], expired["event"]) == ("joined", "expired")
    assert expired["time"] - joined["time"] >= 3
    assert awake.identity.text in relay.peers()
    assert awake.wait_tag(awake.send(silent.identity.id)).reason == "no_route"


def test_relay_stops(relay, join):
    """It says so to everybody, and lets them come back."""
    crowd = [join(f"peer-{number}") for number in range(20)]
    relay.process.send_signal(signal.SIGTERM)
    for peer in crowd:
        peer.wait_event("closing")
        peer.leave()
    relay.stop()
    relay.start()
    for peer in crowd:
        peer.connect()


def test_one_can_watch_with_s_client(relay, federation, identities):
    alice = identities("alice")
    done = subprocess.run(
        ["openssl", "s_client", "-quiet", "-verify_return_error", "-connect",
         "{}:{}".format(*CONTROL_V4), "-CAfile", federation.trust, "-cert", alice.certificate,
         "-key", alice.key, "-alpn", "viaduct/1"],
        input=HELLO.decode(), capture_output=True, text=True, timeout=PATIENCE)
    welcome = json.loads(done.stdout.splitlines()[-1])
    assert welcome["id"] == alice.text
