"""The next epoch of a session: by a resumed handshake, and without a message lost."""

import time

import pytest

from peer import (PING, SEND, Connection, KeyExhausted, Message, Refused, rekey_mac,
                  EXPORT_BINDING)
from relay import eventually

REKEY_PAUSE = 5  # seconds in which the old key still opens, and no other rekey is taken


def assert_relay_moves_on(alice, bob, phase=1):
    """Soon after the relay has opened a record of the new phase, it sends in it, too."""
    eventually(lambda: alice.wait_tag(bob.send(alice.identity.id)).record.phase == phase,
               message="the relay stays in the old phase")


@pytest.mark.parametrize("cipher", ["aes-256-gcm", "chacha20-poly1305"])
def test_rekey(relay, join, neighbours, cipher):
    alice, bob = join("alice", ciphers=[cipher]), join("bob")
    before = relay.admin("status")["handshakes"]
    assert alice.wait_tag(bob.send(alice.identity.id)).record.phase == 0
    alice.rekey()
    assert alice.resumed
    assert alice.epoch.number == 1
    bob.wait_tag(alice.send(bob.identity.id))
    assert_relay_moves_on(alice, bob)
    assert relay.peers()[alice.identity.text]["epoch"] == 1
    after = relay.admin("status")["handshakes"]
    assert after["rekeyed"] == before["rekeyed"] + 1
    assert after["resumed"] == before["resumed"] + 1


def test_rekey_by_full_handshake(join, neighbours):
    alice, bob = join("alice"), join("bob")
    alice.ticket = None
    alice.rekey()
    assert not alice.resumed
    bob.wait_tag(alice.send(bob.identity.id))
    alice.wait_tag(bob.send(alice.identity.id))


def test_old_phase_until_peer_uses_new(join, neighbours):
    alice, bob = join("alice"), join("bob")
    alice.rekey(ping=False)
    assert alice.wait_tag(bob.send(alice.identity.id)).record.phase == 0
    alice.ping_relay()
    assert_relay_moves_on(alice, bob)


def test_old_key_opens_for_five_seconds_more(relay, join, neighbours):
    alice, bob = join("alice"), join("bob")
    late, too_late = (alice.seal([Message(SEND, bob.identity.id, text)])
                      for text in (b"late", b"too late"))
    alice.rekey()
    bob.wait_tag(alice.send(bob.identity.id))
    changed = time.monotonic()
    alice.transmit(late)
    bob.wait(lambda message: message.payload == b"late")
    with pytest.raises(Refused) as refused:
        alice.rekey()
    assert refused.value.answer["error"] == "rekey"
    while time.monotonic() < changed + REKEY_PAUSE + 0.5:
        bob.wait_tag(alice.send(bob.identity.id))
        alice.poll(0.05)
    before = relay.drops()
    alice.transmit(too_late)
    relay.expect_drops(before, records={"key_phase": 1})
    alice.rekey()
    assert alice.epoch.number == 2
    bob.wait_tag(alice.send(bob.identity.id))
    assert_relay_moves_on(alice, bob, 0)


def test_windows_go_on(relay, join):
    """What came before in the old phase doesn't come again in the new one."""
    alice, bob = join("alice"), join("bob")
    record = alice.seal([Message(SEND, bob.identity.id, b"once")])
    alice.transmit(record)
    alice.rekey()
    bob.wait(lambda message: message.payload == b"once")
    before = relay.drops()
    alice.transmit(record)
    relay.expect_drops(before, records={"replay_seen": 1})
    header = alice.header()._replace(sequence=0)
    alice.transmit(alice.seal_raw(header, Message(PING, alice.relay).pack()))
    relay.expect_drops(before, records={"replay_seen": 2})


def refused_rekey(alice, identity, index, epoch, mac=None, secret=None):
    """Asks with alice's tools, as `identity`; returns the error's code."""
    connection = Connection(identity, alice.trust, alice.control_address)
    if mac is None:
        mac = rekey_mac(secret or alice.epoch.rekey_secret, connection.export(EXPORT_BINDING, 32),
                        index, epoch)
    answer = alice.ask_rekey(connection, index, epoch, mac)
    connection.close()
    return answer.get("error")


def test_refused(join, neighbours):
    alice, bob = join("alice"), join("bob")
    own = (alice, alice.identity)
    good = alice.index
    assert refused_rekey(*own, good, 0, mac=bytes(32)) == "rekey"
    assert refused_rekey(*own, good, 0, secret=bytes(32)) == "rekey"
    assert refused_rekey(*own, good, 0, secret=bob.epoch.rekey_secret) == "rekey"
    assert refused_rekey(*own, good, 1) == "rekey"
    assert refused_rekey(*own, good, 0xffffffff) == "rekey"
    assert refused_rekey(*own, good ^ 1 << 20, 0) == "rekey"
    assert refused_rekey(*own, 0xffffffff, 0) == "rekey"
    assert refused_rekey(*own, bob.index, 0) == "rekey", "a session of another"
    assert refused_rekey(alice, bob.identity, good, 0) == "rekey", "by another"
    # and none of this has changed anything
    bob.wait_tag(alice.send(bob.identity.id))
    assert alice.wait_tag(bob.send(alice.identity.id)).record.phase == 0
    alice.rekey()
    bob.wait_tag(alice.send(bob.identity.id))


def test_welcome_that_got_lost(join, neighbours):
    """A peer that never saw its welcome is still in the old epoch, and may try again."""
    alice, bob = join("alice"), join("bob")
    connection = Connection(alice.identity, alice.trust, alice.control_address)
    mac = rekey_mac(alice.epoch.rekey_secret, connection.export(EXPORT_BINDING, 32),
                    alice.index, 0)
    assert alice.ask_rekey(connection, alice.index, 0, mac)["epoch"] == 1
    connection.abandon()
    bob.wait_tag(alice.send(bob.identity.id))
    assert alice.wait_tag(bob.send(alice.identity.id)).record.phase == 0

    def rekeyed():
        try:
            alice.rekey()
            return True
        except Refused:
            bob.poll(0.1)
    eventually(rekeyed)
    bob.wait_tag(alice.send(bob.identity.id))
    assert_relay_moves_on(alice, bob)


@pytest.mark.relay(session={"key_records": 1000})
def test_key_limits(relay, join):
    """At half of its key the relay asks for a rekey; at the end it stops, and says so."""
    alice = join("alice", lanes=2)
    senders = [join("bob"), join("carol"), join("dave")]
    share = alice.welcome["key_records"] // alice.welcome["lanes"]["down"]
    before = relay.drops()
    told = stopped = 0
    for number in range(share):
        sender = senders[number % 3]
        tag = sender.send(alice.identity.id)
        eventually(lambda: alice.poll(0.001) or sender.poll(0.001) or sender.inbox
                   or alice.inbox)
        if sender.inbox:
            assert sender.wait_tag(tag).reason == "key_exhausted"
            stopped = stopped or number
        else:
            alice.wait_tag(tag)
        # by way of the control thread, which may take its time
        if number == share * 3 // 4:
            eventually(lambda: alice.poll(0.01) or {"event": "rekey"} in alice.events)
        if not told and {"event": "rekey"} in alice.events:
            told = number
    # the relay's own records (path, pongs, the word itself) use the key as well
    assert share // 2 - 10 <= told
    assert share - 10 <= stopped < share
    relay.expect_drops(before, messages={"key_exhausted": share - stopped})
    # so does the peer stop, lane by lane
    with pytest.raises(KeyExhausted):
        for number in range(1001):
            alice.send(alice.relay, kind=PING, lane=1)
    assert alice.used == [alice.used[0], 500]
    alice.rekey()
    eventually(lambda: alice.ping_relay() or alice.poll(0.01) or alice.old_until,
               message="the relay doesn't send in the new phase")
    alice.wait_tag(senders[0].send(alice.identity.id))
    senders[0].wait_tag(alice.send(senders[0].identity.id, lane=1))
