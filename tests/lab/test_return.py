"""The same identity joins again: it goes on where it was, and the session before ends."""

import time

import pytest

from netns import ROAMING_V4
from peer import PING, SEND, Message, Refused
from relay import eventually

SLOT = 0xfffff


def test_return(relay, join, neighbours):
    old, bob = join("alice"), join("bob")
    left_over = old.seal([Message(SEND, bob.identity.id)])
    new = join("alice", source=ROAMING_V4[0])
    assert new.index & SLOT == old.index & SLOT
    assert new.index >> 20 == (old.index >> 20) + 1 & 0xfff
    old.wait_event("replaced")
    # those who talk to the peer notice nothing
    tag = bob.send(new.identity.id)
    assert new.wait_tag(tag).address == bob.identity.id
    bob.wait_tag(new.send(bob.identity.id))
    # the old session is dead, and nothing of the new one ever goes to it
    before = relay.drops()
    old.transmit(left_over)
    relay.expect_drops(before, records={"session_stale": 1})
    old.poll(0)
    assert old.inbox == []
    with pytest.raises(Refused) as refused:
        old.rekey()
    assert refused.value.answer["error"] == "rekey"


def test_old_session_goes_on_until_first_record(join, make_peer, neighbours):
    old, bob = join("alice"), join("bob")
    new = make_peer("alice").join()
    old.wait_tag(bob.send(old.identity.id))
    bob.wait_tag(old.send(bob.identity.id))
    assert old.events[-1]["event"] == "path"
    new.reach()
    new.wait_tag(bob.send(new.identity.id))
    old.wait_event("replaced")


def test_join_that_never_sends_a_record(join, make_peer, neighbours):
    """Two more joins, and the session that works goes on."""
    old, bob = join("alice"), join("bob")
    for turn in range(2):
        make_peer("alice").join()
        old.wait_tag(bob.send(old.identity.id))
    newest = make_peer("alice").connect()
    newest.wait_tag(bob.send(newest.identity.id))


def test_newer_join_wins(relay, join, make_peer, neighbours):
    bob = join("bob")
    first, second = make_peer("alice").join(), make_peer("alice").join()
    before = relay.drops()
    first.ping_relay()
    relay.expect_drops(before, records={"session_stale": 1})
    second.reach()
    second.wait_tag(bob.send(second.identity.id))


def test_return_by_resumption(join, make_peer, neighbours):
    """A join, too, may be resumed."""
    old, bob = join("alice"), join("bob")
    new = make_peer("alice")
    new.ticket = old.ticket
    new.connect()
    assert new.resumed
    new.wait_tag(bob.send(new.identity.id))


@pytest.mark.relay(limits={"takeovers_per_minute": 3})
def test_joining_in_a_loop(relay, join, make_peer, neighbours):
    bob = join("bob")
    last = join("alice")
    taken, begin = 0, time.monotonic()
    for turn in range(10):
        again = make_peer("alice")
        try:
            again.connect()
        except Refused as refused:
            assert refused.answer["error"] == "busy"
            assert 0 < refused.answer["retry_after"] <= 60
            again.close()
        else:
            taken += 1
            last = again
    assert 2 <= taken <= 4 + (time.monotonic() - begin) // 20
    # the last one that was let in works
    last.wait_tag(bob.send(last.identity.id))
    bob.wait_tag(last.send(bob.identity.id))
    # and others may join as they like
    join("carol")


@pytest.mark.relay(session={"max": 4})
def test_full(relay, join, make_peer, neighbours):
    alice, bob = join("alice"), join("bob")
    with pytest.raises(Refused) as refused:
        make_peer("carol").join()
    assert refused.value.answer["error"] == "full"
    bob.wait_tag(alice.send(bob.identity.id))
    # who is in may return, though
    again = join("alice")
    again.wait_tag(again.send(again.relay, kind=PING))
    again.leave()
    carol = make_peer("carol")

    def joined():
        try:
            return carol.connect()
        except Refused as full:  # a freed slot rests a while
            assert full.answer["error"] == "full"
            bob.poll(0.1)
    eventually(joined, 40)
