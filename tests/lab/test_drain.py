"""The relay asks its peers to go, and ends when they have."""

import signal
import time

import pytest

from peer import Refused


def ended(relay, seconds):
    process, relay.process = relay.process, None
    start = time.monotonic()
    assert process.wait(seconds + 5) == 0, relay.log()
    relay.check_log()
    return time.monotonic() - start


@pytest.fixture
def relay(make_relay):
    return make_relay(drain={"seconds": 4}).start()


def test_nobody_is_there(relay):
    relay.process.send_signal(signal.SIGTERM)
    assert ended(relay, 4) < 2


def test_peers_go(relay, make_peer):
    peers = [make_peer(f"peer-{number}").connect() for number in range(10)]
    alice, bob = peers[:2]
    relay.process.send_signal(signal.SIGTERM)
    for peer in peers:
        event = peer.wait_event("closing")
        assert (event["within"], event["relays"]) == (2, [])
    # what they still have to say arrives
    assert bob.wait_tag(alice.send(bob.identity.id, b"goodbye")).payload == b"goodbye"
    with pytest.raises(Refused) as refused:
        make_peer("newcomer").join()
    assert refused.value.answer["error"] == "busy"
    assert refused.value.answer["retry_after"] >= 4
    alice.rekey()
    for peer in peers:
        assert peer.leave() == {"ok": True}
    assert ended(relay, 4) < 1.5


def test_said_again(relay, make_peer):
    """A peer that has not heard it would wait for a relay that is gone."""
    alice = make_peer("alice").connect()
    relay.process.send_signal(signal.SIGTERM)
    first, second = (alice.wait_event("closing")["within"] for _ in range(2))
    assert second < first
    alice.leave()
    assert ended(relay, 4) < 4


def test_time_is_up(relay, make_peer):
    alice = make_peer("alice").connect()
    done = relay.viaduct("drain", "--seconds", "1")
    assert done.stdout == "1 peers are told to go; the relay ends in 1 s at the latest\n"
    alice.wait_event("closing")
    assert 0.5 < ended(relay, 1) < 3


def test_twice_is_at_once(relay, make_peer):
    alice = make_peer("alice").connect()
    relay.process.send_signal(signal.SIGTERM)
    alice.wait_event("closing")
    relay.process.send_signal(signal.SIGTERM)
    assert ended(relay, 4) < 2


def test_who_joins_last_is_told(relay, make_peer):
    late, alice = make_peer("late").join(), make_peer("alice").connect()
    relay.process.send_signal(signal.SIGTERM)
    alice.wait_event("closing")
    late.reach()
    late.wait_event("closing")
    late.leave()
    alice.leave()
    assert ended(relay, 4) < 2


def test_bad_seconds(relay):
    for seconds in -1, 3601, "1", 1.5:
        assert not relay.admin({"cmd": "drain", "seconds": seconds})["ok"]
    assert relay.process.poll() is None
