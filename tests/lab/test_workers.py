"""Several workers: peers whose flows change queues all the time."""

import collections
import itertools
import random
import struct
import time

import pytest

from netns import PEER_V4, PEERS_INTERFACE, ROAMING_V4, run
from peer import SEND, Message
from relay import PATIENCE, eventually

PEERS = 6
TRAIN = 48  # records sent at once: more than a burst of the relay's
SECONDS = 5
UNDERWAY = 200  # at most, so that neither sockets nor rings get full
MOVE_SECONDS = 0.2
STAMP = struct.Struct(">HHI")  # sender, how many times it had moved, number


def receive_in_order(lab):
    """What the relay's workers send one after the other isn't mixed up by our own kernel: one core
    takes it all in."""
    run("ip", "netns", "exec", lab.peers, "sh", "-c",
        f"for cpus in /sys/class/net/{PEERS_INTERFACE}/queues/rx-*/rps_cpus; do echo 1 >$cpus; done")


class Traveller:
    """A peer that moves to another port or address now and then, and with it its lane."""

    def __init__(self, number, peer):
        self.number = number
        self.peer = peer
        self.moves = 0
        self.sent = 0
        self.due = time.monotonic() + random.random() * MOVE_SECONDS
        self.transmitted = peer.transmitted
        self.got = collections.Counter()
        self.newest = {}  # flow to number
        self.overtaken = []

    def move_when_due(self):
        if time.monotonic() > self.due:
            self.moves += 1
            self.peer.move((PEER_V4, *ROAMING_V4)[self.moves % 4])
            self.due = time.monotonic() + MOVE_SECONDS

    def send_train(self, to):
        train = []
        for _ in range(TRAIN):
            payload = STAMP.pack(self.number, self.moves, self.sent)
            self.sent += 1
            train.append(self.peer.seal([Message(SEND, to.peer.identity.id, payload)]))
        for record in train:
            self.peer.transmit(record)

    def receive(self):
        self.peer.poll(0)
        for message in self.peer.inbox:
            sender, moves, number = STAMP.unpack(message.payload)
            self.got[sender, number] += 1
            flow = (sender, moves, message.local)
            if number <= self.newest.get(flow, -1):
                self.overtaken.append((flow, number, self.newest[flow]))
            self.newest[flow] = max(number, self.newest.get(flow, -1))
        self.peer.inbox.clear()


@pytest.mark.relay(queues=2, data={"workers": 2})
@pytest.mark.parametrize("polling", ["adaptive", "busy"])
def test_lanes_move_all_the_time(relay, polling, join):
    """Nothing is lost or doubled, and nothing overtakes what went the same way before it."""
    receive_in_order(relay.lab)
    random.seed(7740)
    peers = [Traveller(number, join(f"traveller-{number}")) for number in range(PEERS)]
    before, workers = relay.ledger(), relay.admin("status")["workers"]
    for traveller in peers:
        traveller.transmitted = traveller.peer.transmitted

    def underway(most):
        for traveller in peers:
            traveller.receive()
        return sum(peer.sent for peer in peers) - sum(len(peer.got) for peer in peers) > most
    end = time.monotonic() + SECONDS
    for sender in itertools.cycle(peers):
        if time.monotonic() > end and all(traveller.moves > 10 for traveller in peers):
            break
        assert time.monotonic() < end + PATIENCE, "they don't move"
        sender.move_when_due()
        sender.send_train(random.choice(peers))
        eventually(lambda: not underway(UNDERWAY), message=lambda: str(relay.drops().answer))
    eventually(lambda: not underway(0), message=lambda: str(relay.drops().answer))
    for traveller in peers:
        assert set(traveller.got.values()) == {1}
        assert traveller.overtaken == []
        assert traveller.peer.bad == []
    transmitted = sum(peer.peer.transmitted - peer.transmitted for peer in peers)
    eventually(lambda: (relay.drops() - before)[0]["received"] >= transmitted)
    records, messages = relay.ledger() - before
    assert records["dropped"] == messages["dropped"] == {}
    assert records["received"] == records["opened"] == messages["opened"] == transmitted
    for now, then in zip(relay.admin("status")["workers"], workers):
        assert now["records"] > then["records"] + sum(peer.sent for peer in peers) / 10
