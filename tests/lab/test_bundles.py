"""Several records in a datagram: to peers that take them, and from peers."""
import struct

import pytest

from netns import PEER_V4, ROAMING_V4
from peer import BULK, CRITICAL, NORMAL, PING, SEND, Message, bundle_pack
from relay import PATIENCE, eventually

ROUNDS = 50
SESSIONS = 4


def send_at_once(relay, sender, peers, payloads):
    """In one burst, unless the kernel hands them over in parts: in two classes each."""
    with relay.suspended():
        for payload in payloads:
            for peer in peers:
                for klass in NORMAL, CRITICAL:
                    sender.send(peer.identity.id, payload, klass=klass)


@pytest.mark.parametrize("driver", ["af_xdp", "af_packet"])
def test_who_asks(relay, driver, join):
    """Classes don't share records, but datagrams."""
    sender, asks, asks_not = join("sender"), join("asks", bundles=True), join("asks-not")
    before, rounds = relay.ledger(), 0
    wanted = [b"%d" % number for number in range(4)]
    while not asks.bundles:
        rounds += 1
        assert rounds <= ROUNDS, "no bundle came"
        send_at_once(relay, sender, (asks, asks_not), wanted)
        for peer in asks, asks_not:
            while len(peer.inbox) < 2 * len(wanted):
                assert peer.poll(PATIENCE), f"{len(peer.inbox)} came"
            for klass in NORMAL, CRITICAL:
                assert [message.payload for message in peer.inbox
                        if message.record.klass == klass] == wanted
            assert peer.bad == []
            peer.inbox.clear()
    assert min(asks.bundles) >= 2
    records, messages = relay.ledger() - before
    assert records["dropped"] == messages["dropped"] == {}
    assert messages["delivered"] == 4 * len(wanted) * rounds


class Household:
    """Peers that send from one socket, the first's, on their second lanes; and who hears them."""

    def __init__(self, join):
        self.peers = [join(f"sibling-{number}", lanes=2) for number in range(SESSIONS)]
        self.hears = join("hears")
        self.said = []

    def record(self, peer, klass=NORMAL, to=None):
        payload = b"%d" % len(self.said)
        self.said.append(payload)
        return peer.seal([Message(SEND, (to or self.hears).identity.id, payload)], 1, klass)

    def records(self):
        return [self.record(peer) for peer in self.peers]

    def put(self, datagram):
        self.peers[0].put(datagram, self.peers[0].lane_sockets[0])

    def all_heard(self, but=()):
        """In order, as they are of one class, or one worker's."""
        wanted = [payload for payload in self.said if payload not in but]
        assert self.heard(len(wanted)) == wanted
        self.said.clear()

    def heard(self, count):
        while len(self.hears.inbox) < count:
            assert self.hears.poll(PATIENCE), f"{len(self.hears.inbox)} of {count} came"
        assert self.hears.bad == []
        payloads = [message.payload for message in self.hears.inbox]
        self.hears.inbox.clear()
        return payloads


@pytest.fixture
def household(relay, join):
    return Household(join)


@pytest.mark.parametrize("driver", ["af_xdp", "af_packet"])
def test_from_several_sessions(relay, driver, household, neighbours):
    """As if each had come alone: one each, several each, and more than the relay's burst."""
    assert all(peer.welcome["bundles"] is True for peer in household.peers)
    before = relay.drops()
    household.put(bundle_pack(household.records()))
    household.put(bundle_pack(household.record(peer)
                              for peer in household.peers + household.peers[::-1]))
    household.all_heard()
    for _ in range(3):
        household.put(bundle_pack([household.record(household.peers[0]) for _ in range(16)]))
    household.put(household.record(household.peers[1]))
    household.all_heard()
    records, messages = relay.drops() - before
    assert records["dropped"] == messages["dropped"] == {}


def test_classes(relay, household):
    for klass in NORMAL, BULK, CRITICAL:
        household.put(bundle_pack([household.record(peer, klass) for peer in household.peers]))
        household.all_heard()
    household.put(bundle_pack([household.record(household.peers[0], klass)
                               for klass in (BULK, NORMAL, CRITICAL)]))
    household.said.reverse()
    household.all_heard()


@pytest.mark.relay(queues=2, data={"workers": 2})
def test_lanes_of_two_workers(relay, household):
    """Records of a bundle whose lanes the other worker owns are handed over, each in order."""
    workers = relay.admin("status")["workers"]
    before = relay.ledger()
    for peer in household.peers:  # from a socket of its own, and so wherever its flow goes
        peer.lane_sockets.append(peer._open_socket(PEER_V4))
    sent = 0
    for _ in range(ROUNDS):
        for peer in household.peers:
            peer.put(household.record(peer), peer.lane_sockets[1])
        household.put(bundle_pack(household.records()))
        sent += 2 * SESSIONS
        assert sorted(household.heard(2 * SESSIONS)) == sorted(household.said)
        household.said.clear()
    records, messages = relay.ledger() - before
    assert records["dropped"] == messages["dropped"] == {}
    assert records["received"] == records["opened"] == messages["delivered"] == sent
    assert sum(now["records"] - then["records"]
               for now, then in zip(relay.admin("status")["workers"], workers)) == sent


def test_roaming(relay, join, household, neighbours):
    """A peer moves to where the bundle came from in which its lane 0 was, as the last of three."""
    moves = join("moves", lanes=2)
    moves.move(ROAMING_V4[0])
    siblings = [household.record(peer) for peer in household.peers[:2]]
    moves.transmit(bundle_pack([*siblings, moves.seal([Message(PING, moves.relay)])]))
    moves.wait_event("challenge")
    address = moves.lane_sockets[0].getsockname()[:2]
    eventually(lambda: moves.poll(0.01) or moves.path == address)
    household.all_heard()
    assert relay.peers()[moves.identity.text]["address"].startswith(ROAMING_V4[0])
    for peer in household.peers:
        assert peer.events == [event for event in peer.events if event["event"] == "path"]


def test_malformed(relay, household, neighbours):
    """What is whole before the fault counts, what is behind it is one record that doesn't."""
    faults = (
        lambda bundle: bundle[:-1],
        lambda bundle: bundle + b"\0",
        lambda bundle: bundle + b"\0\0",
        lambda bundle: bundle + struct.pack(">H", 55) + bytes(55),
        lambda bundle: bundle + struct.pack(">H", 0xffff) + bytes(100),
    )
    before = relay.drops()
    lost = []
    for fault in faults:
        household.put(fault(bundle_pack(household.records())))
        if fault is faults[0]:
            lost.append(household.said[-1])
    relay.expect_drops(before, records={"bundle": len(faults)})
    household.all_heard(but=lost)


def test_no_records(relay, household, neighbours):
    """Bundles in bundles, and what is too short or has a bit set that means nothing."""
    before = relay.drops()
    inner = bundle_pack([bytes(60)])
    good = household.record(household.peers[0])
    household.put(bundle_pack([inner, good, inner]))
    household.put(b"\x11\x01" + bundle_pack([good])[2:])
    household.put(b"\x11")
    household.put(bundle_pack([]))
    relay.expect_drops(before, records={"version": 3, "truncated": 2})
    household.all_heard()


def test_forged(relay, household, neighbours):
    """Who forges bundles is dropped record by record, and harms nobody in the same one."""
    before = relay.drops()
    good = household.records()
    bad = [record[:-1] + bytes([record[-1] ^ 1]) for record in good]
    household.put(bundle_pack(bad + good + good))
    relay.expect_drops(before, records={"auth": SESSIONS, "replay_seen": SESSIONS})
    household.all_heard()
