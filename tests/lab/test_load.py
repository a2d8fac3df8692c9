"""Under load, with two lanes and two workers, reordering and loss on the way."""

import collections
import time

import pytest

from netns import PEER_V4, ROAMING_V4
from peer import (CONTROL, CONTROL_CLASS, PING, PONG, PUBLISH, REQUEST, SEND, Message, Peer)
from relay import CONTROL_V4, CONTROL_V6, PATIENCE, eventually
from storm import Storm, StormyPeer

SECONDS = 12
PAUSE = 0.002
UNDERWAY = 500  # messages, at most: rings hold more
NOBODY = bytes(16)
WINDOW = 2048  # the relay's


class Crowd:
    """Peers who talk to each other, each of them on two lanes."""

    def __init__(self, relay, federation, storm, size=6):
        self.relay = relay
        self.federation = federation
        self.storm = storm
        self.before = relay.ledger()
        self.workers_before = relay.admin("status")["workers"]
        self.members = []
        self.retired = []  # whose sessions were taken over
        self.ids = []
        for number in range(size):
            self.members.append(self.new_peer(number).connect())
            self.ids.append(self.members[-1].identity.id)

    def new_peer(self, number, **options):
        options = {"control": CONTROL_V6 if number % 3 == 2 else CONTROL_V4, "lanes": 2,
                   "ciphers": [("aes-256-gcm", "chacha20-poly1305")[number % 2]],
                   "spread": True, **options}
        return StormyPeer(self.storm, self.federation.peer(f"storm-{number}", "storm"),
                          self.federation.trust, **options)

    def add(self, number, **options):
        """Another member, whom the others don't write to."""
        self.members.append(self.new_peer(number, **options).connect())
        return self.members[-1]

    def all(self):
        return self.members + self.retired

    def poll(self):
        for peer in self.all():
            peer.poll(0)
            peer.take_errors()
        for peer in self.members:
            if {"event": "rekey"} in peer.events:
                peer.events.remove({"event": "rekey"})
                peer.try_rekey()

    def run(self, seconds, action, every, enough=lambda: True):
        """Chatters, and does action(step) now and then, until the time is up and it is enough."""
        end = time.monotonic() + seconds
        due = time.monotonic() + every
        step = 0
        while time.monotonic() < end or not enough():
            assert time.monotonic() < end + PATIENCE, "it is never enough"
            for peer in self.members[:len(self.ids)]:
                peer.chatter(self.ids)
            eventually(lambda: self.poll() or self.storm.underway() < UNDERWAY)
            if time.monotonic() >= due:
                action(step)
                step += 1
                due = time.monotonic() + every
            time.sleep(PAUSE)

    def settle(self):
        """The weather clears, and what is on the way arrives: each message, once."""
        self.storm.loss = 0
        for peer in self.members:
            peer.quiesce()
        eventually(lambda: self.poll() or not self.storm.missing(),
                   message=lambda: f"{len(self.storm.missing())} of {self.storm.sent} lost")
        self.storm.assert_exact()
        assert [reason for peer in self.all() for reason in peer.bad] == []

    def compare(self):
        """Returns what the relay dropped since the beginning; all else must be as counted here."""
        def differences():
            self.poll()
            records, messages = self.relay.drops() - self.before
            return (records["received"] - self.storm.records_in,
                    messages["opened"] - self.storm.messages_in,
                    messages["delivered"] - self.storm.messages_out)
        eventually(lambda: differences() == (0, 0, 0),
                   message=lambda: f"received, opened, delivered differ by {differences()}; "
                   f"dropped {(self.relay.drops() - self.before)}")
        records, messages = self.relay.ledger() - self.before
        return records["dropped"], messages["dropped"]

    def assert_no_nonce_repeats(self):
        """Each peer notices if it, or the relay to it, uses one twice; here all together."""
        for nonces in ([peer.sealed for peer in self.all()],
                       [peer.received for peer in self.all()]):
            assert len(set().union(*nonces)) == sum(map(len, nonces))

    def assert_all_workers_work(self):
        """Each had its share, and the kernel dropped nothing on the way to them."""
        for now, then in zip(self.relay.admin("status")["workers"], self.workers_before):
            assert now["records"] > then["records"] + 100
        assert not any(self.relay.admin("drops")["kernel"].values())

    def leave(self):
        self.storm.loss = 0
        for peer in self.members:
            peer.leave()
        for peer in self.all():
            peer.close()


@pytest.fixture
def storm():
    return Storm(seed=7740)


@pytest.fixture
def crowd(relay, federation, storm):
    crowd = Crowd(relay, federation, storm)
    yield crowd
    crowd.leave()


def roam(crowd, number, step):
    peer = crowd.members[number]
    if peer.control_address == CONTROL_V4:
        peer.move((PEER_V4, *ROAMING_V4)[step % 4])


def rekey(crowd, number, step):
    crowd.members[number].try_rekey()


def take_over(crowd, number, step):
    """As a successor process would: the old one says what it has to say, then the new one joins."""
    old = crowd.members[number]
    old.quiesce()
    new = crowd.new_peer(number).join()
    crowd.members[number] = new
    crowd.retired.append(old)
    old.replaced = True
    new.reach()


@pytest.mark.relay(queues=2, data={"workers": 2}, limits={"takeovers_per_minute": 60})
def test_rekey_roaming_and_take_over(relay, crowd, storm):
    """Nothing is lost or doubled by them, and no nonce repeats."""
    actions = [rekey, roam, take_over]

    def act(step):
        # so that each member gets each kind of trouble in its turn
        actions[step % 3](crowd, step // 3 % len(crowd.ids), step)
    storm.loss = 0.01

    def enough():
        return (storm.lost and storm.sent > 6000 and len(crowd.retired) > 10
                and sum(peer.epoch.number for peer in crowd.all()) > 10)
    crowd.run(SECONDS, act, every=0.15, enough=enough)
    crowd.settle()
    assert crowd.compare() == ({}, {})
    crowd.assert_no_nonce_repeats()
    crowd.assert_all_workers_work()
    for peer in crowd.members:
        eventually(lambda: reached_at_newest_address(peer))


def reached_at_newest_address(peer):
    message = peer.wait_tag(peer.send(peer.identity.id))
    return message.local == peer.lane_sockets[0].getsockname()[:2]


class Vandal:
    """Makes every kind of drop that can be made from outside, and keeps count of it."""

    def __init__(self, crowd):
        self.crowd = crowd
        self.storm = crowd.storm
        self.records = collections.Counter()
        self.messages = collections.Counter()
        self.bad = crowd.add(100, ciphers=["aes-256-gcm"], control=CONTROL_V4, lanes=2)
        self.giant = crowd.add(101, mtu=1500)
        self.feeder = crowd.add(102, lanes=1)
        self.glutton = crowd.add(103)
        crowd.retired.append(crowd.members.pop())  # nothing more can be asked of it in the end
        self.fed = 0
        self.old = iter(range(100, WINDOW))
        self.bad.sequences[0] = 2 * WINDOW
        self.bad.quiesce()

    def __call__(self, step):
        reason = self.storm.random.choice([name for name in dir(self) if name.startswith("drop_")])
        getattr(self, reason)()
        for meal in range(10):
            self.feed()

    def throw(self, reason, datagram):
        self.records[reason] += 1
        self.storm.records_in += 1
        self.bad.lane_sockets[self.storm.random.randrange(2)].send(datagram)

    def good(self):
        """A record that would be taken, if it went out as it is."""
        return Peer.seal(self.bad, [Message(PING, self.bad.relay)])

    def changed(self, byte, bits):
        record = bytearray(self.good())
        record[byte] ^= bits
        return bytes(record)

    def forged(self, plaintext=None, **header):
        plaintext = plaintext or Message(PING, self.bad.relay).pack()
        return self.bad.seal_raw(self.bad.header()._replace(**header), plaintext)

    def drop_truncated(self):
        self.throw("truncated", self.good()[:self.storm.random.randrange(56)])

    def drop_version(self):
        self.throw("version", self.changed(0, 0x30))

    def drop_reserved(self):
        self.throw("reserved", self.changed(1, 0x10))

    def drop_session_unknown(self):
        self.throw("session_unknown", self.forged(index=0xfffff))

    def drop_session_stale(self):
        self.throw("session_stale", self.forged(index=self.bad.index ^ 1 << 31))

    def drop_oversized(self):
        self.throw("oversized", self.forged(bytes(1280 - 48 - 32 + 1)))

    def drop_lane(self):
        self.throw("lane", self.forged(lane=2))

    def drop_key_phase(self):
        self.throw("key_phase", self.forged(phase=1))

    def drop_replay_old(self):
        self.throw("replay_old", self.forged(sequence=next(self.old)))

    def drop_replay_seen(self):
        record = self.bad.seal([Message(PING, self.bad.relay)])
        self.bad.transmit(record)
        self.bad.calm()
        for again in range(3):
            self.throw("replay_seen", record)

    def drop_auth(self):
        self.throw("auth", self.changed(self.storm.random.randrange(16, 56), 0x80))

    def drop_malformed(self):
        plaintext = Message(PING, self.bad.relay, b"payload").pack()
        self.throw("malformed", self.forged(plaintext[:-1]))

    def tell(self, peer, reason, *messages):
        self.messages[reason] += len(messages)
        peer.send_messages(messages, self.storm.random.randrange(peer.lanes))

    def drop_no_route(self):
        self.tell(self.giant, "no_route", Message(SEND, NOBODY), Message(REQUEST, NOBODY, b"?"))

    def drop_hop_limit(self):
        self.tell(self.giant, "hop_limit", Message(SEND, self.bad.identity.id, hop_limit=0))

    def drop_unsupported(self):
        self.tell(self.giant, "unsupported", Message(PUBLISH, self.bad.identity.id),
                  Message(99, NOBODY))

    def drop_too_large(self):
        self.tell(self.giant, "too_large", Message(SEND, self.bad.identity.id, bytes(1300)))

    def feed(self):
        """The glutton gets more than the relay has key for: a message fills a record."""
        if self.feeder.used[0] < self.feeder.welcome["key_records"] - 100:
            self.fed += 1
            self.feeder.send(self.glutton.identity.id, bytes(1160), kind=PONG)

    def eaten(self):
        self.crowd.poll()
        return len(self.glutton.inbox)


@pytest.mark.relay(queues=2, data={"workers": 2, "mtu": 1500}, session={"key_records": 4000})
@pytest.mark.parametrize("driver", ["af_xdp", "af_packet"])
def test_ledgers_are_exact(relay, crowd, storm):
    """To the record and to the message, under load, with every kind of drop in it."""
    vandal = Vandal(crowd)
    crowd.run(6, vandal, every=0.02, enough=lambda: vandal.fed > vandal.eaten())
    crowd.settle()
    records, messages = crowd.compare()
    exhausted = messages.pop("key_exhausted")
    assert exhausted == vandal.fed - vandal.eaten() > 0
    assert records == vandal.records
    assert messages == vandal.messages
    crowd.assert_all_workers_work()
    # each error was about one of the drops
    for reason, count in storm.errors.items():
        assert count <= {**vandal.messages, "key_exhausted": exhausted}[reason]


def test_requests_beside_a_flood_of_them(relay, join, neighbours):
    """Who asks without end leaves the control thread's ring to others."""
    alice, bob = join("alice"), join("bob")
    for turn in range(10):
        tags = []
        with relay.suspended():
            for record in range(50):
                alice.send_messages([Message(CONTROL, alice.relay, b'{"op":"relays"}', alice.tag())
                                     for _ in range(20)], klass=CONTROL_CLASS)
            for request in range(10):
                tags.append(bob.send(bob.relay, b'{"op":"relays"}', CONTROL, klass=CONTROL_CLASS))
        eventually(lambda: bob.poll(0.01) or all(tag in bob.replies for tag in tags))


@pytest.mark.relay(queues=2, data={"workers": 2})
def test_flood_of_control_messages(relay, join, neighbours):
    """What isn't taken is counted; the neighbours notice nothing of it."""
    alice = join("alice")
    before = relay.drops()
    request = b'{"op":"relays"}'
    tags = []
    for record in range(500):
        messages = [Message(CONTROL, alice.relay, request, alice.tag()) for _ in range(20)]
        tags += [message.tag for message in messages]
        alice.send_messages(messages, klass=CONTROL_CLASS)

    def answered_or_dropped():
        alice.poll(0.01)
        dropped = relay.drops().dropped_since(before)[1].get("control_full", 0)
        known = relay.admin({"cmd": "trust", "peer": alice.identity.text})["causes"]
        excess = sum(cause["times"] for cause in known if cause["cause"] == "limit")
        return len(alice.replies) + dropped + excess == len(tags)
    eventually(answered_or_dropped, message=lambda: (len(alice.replies), relay.drops().messages))
    assert alice.bad == []
