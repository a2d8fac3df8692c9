"""Peers who asked to be told what happens to other peers."""

import json
import os
import subprocess

import pytest

from netns import PEER_V4
from relay import CONTROL_V4, VIADUCT, eventually


def change(peer):
    event = peer.wait_event("peer")
    return event["change"], event.get("id"), event["sequence"]


def silent(peer):
    """Nothing more is told: the relay has answered what was asked later."""
    peer.control({"op": "relays"})
    return [event for event in peer.events if event["event"] == "peer"] == []


def cluster_of(peer):
    return peer.identity.name.split("/")[3]


def test_life_of_a_peer(relay, join, make_peer, neighbours):
    alice, bob = join("alice"), make_peer("bob")
    number = alice.control({"op": "watch", "cluster": cluster_of(alice)})["sequence"]
    bob.connect()
    assert change(alice) == ("joined", bob.identity.text, number + 1)
    bob.move(PEER_V4)
    eventually(lambda: bob.ping_relay() or bob.poll(0.02) or
               any(event["event"] == "peer" for event in alice.poll(0) or alice.events))
    assert change(alice) == ("moved", bob.identity.text, number + 2)
    bob.connect()  # takes over: it joins once more
    assert change(alice) == ("joined", bob.identity.text, number + 3)
    bob.leave()
    assert change(alice) == ("left", bob.identity.text, number + 4)
    bob.connect()
    assert change(alice) == ("joined", bob.identity.text, number + 5)
    relay.admin({"cmd": "revoke", "peer": bob.identity.text})
    assert change(alice) == ("revoked", bob.identity.text, number + 6)
    relay.admin({"cmd": "revoke", "peer": bob.identity.text, "undo": True})
    # asked again, as after a lost answer, it goes on
    assert alice.control({"op": "watch", "cluster": cluster_of(alice)})["sequence"] == number + 6
    assert alice.control({"op": "unwatch"})["ok"]
    bob.connect().leave()
    assert silent(alice)


@pytest.mark.relay(session={"keepalive": 1, "expiry": 4})
def test_silence(join, neighbours):
    alice, bob = join("alice"), join("bob")
    alice.control({"op": "watch", "id": bob.identity.text})
    eventually(lambda: alice.poll(0.1) or [event for event in alice.events
                                           if event.get("change") == "expired"], 6)


def test_one_of_many(join, make_peer, neighbours):
    alice, bob, carol = join("alice"), make_peer("bob"), make_peer("carol")
    alice.control({"op": "watch", "id": bob.identity.text})
    carol.connect()
    bob.connect()
    assert change(alice) == ("joined", bob.identity.text, 1)
    carol.leave()
    assert silent(alice)


def test_ends_with_the_session(join, make_peer, neighbours):
    alice, bob = join("alice"), make_peer("bob")
    alice.control({"op": "watch"})
    alice.connect()
    bob.connect().leave()
    assert silent(alice)


@pytest.mark.relay(limits={"watchers": 1})
def test_enough_watch(join, neighbours):
    alice, bob = join("alice"), join("bob")
    alice.control({"op": "watch"})
    assert bob.control({"op": "watch"})["error"] == "busy"
    assert alice.control({"op": "watch"})["ok"]
    alice.leave()
    assert bob.control({"op": "watch"})["ok"]


def test_bad_requests(join, neighbours):
    alice = join("alice")
    for bad in {"id": "nonsense"}, {"id": 7}, {"cluster": ["x"]}, {"cluster": "x" * 300}:
        assert alice.control({"op": "watch", **bad})["error"] == "malformed"


@pytest.mark.relay(policy={"rules": [{"from": "red", "to": ["green"]}]})
def test_policy(make_peer, federation):
    """Nobody is told of whom he may not send to."""
    red, green, blue = (make_peer(federation.peer("one", cluster))
                        for cluster in ("red", "green", "blue"))
    red.connect()
    red.control({"op": "watch"})
    blue.connect()
    green.connect()
    assert change(red) == ("joined", green.identity.text, 1)
    blue.control({"op": "watch"})
    red.leave()
    assert change(blue) == ("left", red.identity.text, 1)


def test_command(relay, federation, identities, make_peer, neighbours):
    watcher, bob = identities("watcher"), make_peer("bob")
    environment = {**os.environ, "VIADUCT_RELAY": "{}:{}".format(*CONTROL_V4),
                   "VIADUCT_CA": federation.trust, "VIADUCT_CERT": watcher.certificate,
                   "VIADUCT_KEY": watcher.key}
    with subprocess.Popen(
            [VIADUCT, "watch", "--cluster", watcher.name.split("/")[3], "--count", "2", "--json"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert watcher.text in process.stderr.readline()

        def come_and_go():
            bob.connect().leave()
            return process.poll() is not None
        eventually(come_and_go)
        heard = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert {event["change"] for event in heard} == {"joined", "left"}
    assert {(event["id"], event["name"], event["missed"]) for event in heard} == {
        (bob.identity.text, bob.identity.name, 0)}
    assert process.returncode == 0
