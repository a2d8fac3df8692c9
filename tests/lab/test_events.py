"""What happens to peers, as `viaduct events` tells it."""

import json
import os
import socket
import subprocess
import threading

import pytest

from netns import PEER_V4
from relay import CONTROL_V4, VIADUCT, eventually


def test_life_of_a_peer(relay, join, watch, neighbours):
    alice = join("alice")
    joined = watch(alice)
    assert (joined["event"], joined["index"]) == ("joined", alice.index)
    assert (joined["name"], joined["cluster"]) == (alice.identity.name,
                                                   alice.identity.name.split("/")[3])
    assert joined["address"].startswith(PEER_V4 + ":") and joined["time"] > 1.7e9
    alice.move(PEER_V4)
    eventually(lambda: alice.ping_relay() or alice.poll(0.02) or
               relay.peers()[alice.identity.text]["address"] != joined["address"])
    assert watch(alice)["event"] == "moved"
    old = alice.index
    alice.connect()
    replaced, again = watch(alice), watch(alice)
    assert {event["event"]: event["index"] for event in (replaced, again)} == {
        "replaced": old, "joined": alice.index}
    alice.leave()
    assert watch(alice)["event"] == "left"
    alice.connect()
    assert watch(alice)["event"] == "joined"
    relay.admin({"cmd": "revoke", "peer": alice.identity.text})
    assert watch(alice)["event"] == "revoked"
    relay.admin({"cmd": "revoke", "peer": alice.identity.text, "undo": True})


@pytest.mark.relay(session={"keepalive": 1, "expiry": 4})
def test_silence(join, watch, neighbours):
    alice = join("alice")
    assert watch(alice)["event"] == "joined"
    assert watch(alice)["event"] == "expired"


@pytest.mark.relay(session={"keepalive": 1, "expiry": 4})
def test_killed(relay, join, federation, identities, watch, neighbours):
    """A process that ends without a word is forgotten, and its route with it."""
    victim = identities("victim")
    environment = {**os.environ, "VIADUCT_RELAY": "{}:{}".format(*CONTROL_V4),
                   "VIADUCT_CA": federation.trust, "VIADUCT_CERT": victim.certificate,
                   "VIADUCT_KEY": victim.key}
    with subprocess.Popen((VIADUCT, "listen"), env=environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        assert watch(victim)["event"] == "joined"
        process.kill()
    assert victim.text in [route["id"] for route in relay.admin("routes")["routes"]]
    assert watch(victim)["event"] == "expired"
    assert victim.text not in [route["id"] for route in relay.admin("routes")["routes"]]
    bob = join("bob")
    assert bob.wait_tag(bob.send(victim.id)).reason == "no_route"


def test_command(relay, make_peer, neighbours):
    with subprocess.Popen([VIADUCT, "events", "--count", "2", "--socket", relay.admin_socket],
                          stdout=subprocess.PIPE, text=True) as process:
        alice = make_peer("alice")

        def come_and_go():
            alice.connect().leave()
            return process.poll() is not None
        eventually(come_and_go)
        lines = process.stdout.read().splitlines()
    assert [line.split()[:2] for line in lines] in (
        [["joined", alice.identity.name], ["left", alice.identity.name]],
        [["left", alice.identity.name], ["joined", alice.identity.name]])
    assert process.returncode == 0


def test_who_reads_too_slowly(relay, make_peer, neighbours):
    """Is told how much it has missed, when it has read what was kept for it; others get all."""
    slow, good = relay.events(), relay.events()
    over = threading.Event()

    def come_and_go(peer):
        while not over.is_set():
            peer.connect().leave()
    threads = [threading.Thread(target=come_and_go, args=(make_peer(f"restless{number}"),))
               for number in range(3)]
    for thread in threads:
        thread.start()
    seen = 0
    try:
        while seen < 2000:
            assert json.loads(good.readline())["event"] in ("joined", "left")
            seen += 1
    finally:
        over.set()
        for thread in threads:
            thread.join()

    def until(file, wanted):
        """How many events there are before the one that is wanted, which is returned as well."""
        for total, line in enumerate(file):
            event = json.loads(line)
            if wanted(event):
                return total, event
        return None
    got, missed = until(slow, lambda event: event["event"] == "missed")
    assert missed["count"] > 100
    last = make_peer("last").connect()
    more, event = until(slow, lambda event: event["id"] == last.identity.text)
    rest, event = until(good, lambda event: event["id"] == last.identity.text)
    assert got + missed["count"] + more == seen + rest
    assert relay.admin("status")["ok"]


def test_who_goes_without_reading(relay, join, neighbours):
    """Harms nobody."""
    alice = join("alice")
    for number in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
            slow.settimeout(5)
            slow.connect(relay.admin_socket)
            slow.sendall(b'{"cmd":"events"}\n' + b"nonsense" * 1000)
            if number % 2:
                alice.leave()
                alice.connect()
    assert relay.admin("status")["ok"]
