"""The relay asks its peers to go, and ends when they have."""

import json
import os
import signal
import subprocess
from datetime import datetime, timedelta

import pytest

from netns import RELAY_V4
from peer import Refused
from relay import CONTROL_V4, PATIENCE, PORT, VIADUCT, eventually

DRAIN = 600  # seconds that the relay would give its peers: nobody here waits for as long


def ended(relay):
    process, relay.process = relay.process, None
    assert process.wait(PATIENCE) == 0, relay.log()
    relay.check_log()


@pytest.fixture
def relay(make_relay):
    return make_relay(drain={"seconds": DRAIN}).start()


def test_nobody_is_there(relay):
    relay.process.send_signal(signal.SIGTERM)
    ended(relay)


def test_peers_go(relay, make_peer):
    peers = [make_peer(f"peer-{number}").connect() for number in range(10)]
    alice, bob = peers[:2]
    relay.process.send_signal(signal.SIGTERM)
    for peer in peers:
        event = peer.wait_event("closing")
        assert (event["within"], event["relays"]) == (DRAIN / 2, [])
    # what they still have to say arrives
    assert bob.wait_tag(alice.send(bob.identity.id, b"goodbye")).payload == b"goodbye"
    with pytest.raises(Refused) as refused:
        make_peer("newcomer").join()
    assert refused.value.answer["error"] == "busy"
    assert refused.value.answer["retry_after"] >= DRAIN
    alice.rekey()
    for peer in peers:
        assert peer.leave() == {"ok": True}
    ended(relay)


def test_said_again(relay, make_peer):
    """A peer that has not heard it would wait for a relay that is gone."""
    alice = make_peer("alice").connect()
    relay.process.send_signal(signal.SIGTERM)
    first, second = (alice.wait_event("closing")["within"] for _ in range(2))
    assert second < first
    alice.leave()
    ended(relay)


def test_time_is_up(relay, make_peer):
    alice = make_peer("alice").connect()
    done = relay.viaduct("drain", "--seconds", "1")
    assert done.stdout == "1 peers are told to go; the relay ends in 1 s at the latest\n"
    alice.wait_event("closing")
    ended(relay)
    begin, = (line["ts"] for line in relay.said("draining"))
    end, = (line["ts"] for line in relay.said("stopped"))
    assert datetime.fromisoformat(end[:19]) - datetime.fromisoformat(begin[:19]) >= timedelta(seconds=1)


def test_twice_is_at_once(relay, make_peer):
    alice = make_peer("alice").connect()
    relay.process.send_signal(signal.SIGTERM)
    alice.wait_event("closing")
    relay.process.send_signal(signal.SIGTERM)
    ended(relay)


def test_who_joins_last_is_told(relay, make_peer):
    late, alice = make_peer("late").join(), make_peer("alice").connect()
    relay.process.send_signal(signal.SIGTERM)
    alice.wait_event("closing")
    late.reach()
    late.wait_event("closing")
    late.leave()
    alice.leave()
    ended(relay)


def test_bad_seconds(relay):
    for seconds in -1, 3601, "1", 1.5:
        assert not relay.admin({"cmd": "drain", "seconds": seconds})["ok"]
    assert relay.process.poll() is None


@pytest.fixture
def listen(federation):
    """Starts peers of libviaduct's; returns who they are."""
    processes = []

    def listen(name):
        identity = federation.peer(name, "drain")
        processes.append(subprocess.Popen(
            [VIADUCT, "listen"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "VIADUCT_RELAY": "{}:{}".format(*CONTROL_V4),
                 "VIADUCT_CA": federation.trust, "VIADUCT_CERT": identity.certificate,
                 "VIADUCT_KEY": identity.key}))
        return identity
    yield listen
    for process in processes:
        process.kill()
        process.wait()


def test_libviaduct_takes_its_time(make_relay, listen):
    """Not all go in the same moment, and until they do, they are there."""
    relay = make_relay(drain={"seconds": 10}).start()
    peers = {listen(f"peer-{number}").text for number in range(8)}
    eventually(lambda: peers == {peer["id"] for peer in relay.peers().values()
                                 if peer["state"] == "joined"})
    events = relay.events()
    relay.process.send_signal(signal.SIGTERM)
    left = [json.loads(events.readline()) for _ in peers]
    events.close()
    assert {event["id"] for event in left} == peers
    assert {event["event"] for event in left} == {"left"}
    # of eight moments within 5 s, all are in the same tenth of a second once in 10^11 times
    assert left[-1]["time"] - left[0]["time"] > 0.1
    ended(relay)


def test_another_relay(make_relay, listen):
    """Peers go to one that is named, and come back when that one is gone."""
    nowhere, there = f"{RELAY_V4}:{PORT + 2}", f"{RELAY_V4}:{PORT + 1}"
    relay = make_relay(drain={"seconds": 2}, control={"relays": [nowhere, there]}).start()
    other = make_relay("other", control={"listen": [there]},
                       data={"port": PORT + 1, "driver": "af_packet"},
                       session={"keepalive": 1, "expiry": 4}).start()
    peer = listen("peer").text
    eventually(lambda: peer in relay.peers())
    relay.process.send_signal(signal.SIGTERM)
    ended(relay)
    eventually(lambda: peer in other.peers())
    relay.start()
    other.kill()
    eventually(lambda: peer in relay.peers(), 60)


def test_other_relays_are_told(relay, join):
    assert join("alice").welcome["relays"] == []
    relay.reload(control={"relays": ["b.example:7740"]})
    bob = join("bob")
    assert bob.welcome["relays"] == ["b.example:7740"]
    assert bob.control({"op": "relays"}) == {"ok": True, "relays": ["b.example:7740"]}
