"""A wall clock that jumps: only certificates, CRLs and tickets have to do with it."""

import os

import pytest
from OpenSSL import SSL

from conftest import Neighbours
from peer import Peer
from relay import BUILD, CONTROL_V4, ENVIRONMENT, Relay, eventually

CLOCK = os.path.join(BUILD, "tests", "clock", "clock.so")
HOUR, DAY = 3600, 86400


@pytest.fixture
def own(lab, house, federation, tmp_path):
    house.stop()
    relay = Relay(lab, federation, tmp_path, tls={"tickets": "tickets"},
                  session={"keepalive": 1, "expiry": 3})
    relay.environment = {**ENVIRONMENT, "LD_PRELOAD": CLOCK,
                         "CLOCK_FILE": str(tmp_path / "clock")}
    relay.start()
    try:
        yield relay
        relay.check()
        relay.ledger()
        relay.stop()
    finally:
        relay.kill()


@pytest.fixture
def jump(own, tmp_path):
    def jump(seconds):
        """Puts the relay's clock so far ahead of ours."""
        (tmp_path / "clock.new").write_text(str(seconds))
        os.rename(tmp_path / "clock.new", tmp_path / "clock")
    return jump


@pytest.fixture
def peers(own, federation):
    """Two who talk while the clock jumps, and lose nothing."""
    pair = [Peer(federation.peer(name, "clock"), federation.trust, CONTROL_V4).connect()
            for name in ("alice", "bob")]
    thread = Neighbours(*pair)
    thread.start()
    yield thread
    thread.finish()
    for peer in pair:
        peer.leave()


def test_sessions_go_on(own, peers, jump):
    """Through more than `expiry` of either clock."""
    for seconds in 40 * DAY, -40 * DAY, HOUR, -HOUR, 0:
        jump(seconds)
        sent = peers.sent
        eventually(lambda: peers.sent > sent + 50, 10)
    eventually(lambda: own.admin("status")["uptime_s"] >= 3, 10)
    assert not [line for line in own.log_lines() if line.get("reason") == "expired"]
    assert {peer["state"] for peer in own.peers().values()} == {"joined"}


def test_who_is_silent_expires_all_the_same(own, peers, jump, federation):
    carol = Peer(federation.peer("carol", "clock"), federation.trust, CONTROL_V4).connect()
    jump(-10 * DAY)
    eventually(lambda: carol.identity.text not in own.peers(), 6)


def test_certificates(own, peers, jump, federation):
    """Are judged by the time of day that it is now."""
    carol = Peer(federation.peer("carol", "clock"), federation.trust, CONTROL_V4).connect()
    carol.leave()
    for seconds, alert in (40 * DAY, "certificate expired"), (-40 * DAY, "bad certificate"):
        jump(seconds)
        with pytest.raises(SSL.Error, match=alert):
            carol.join()
        carol.ticket = None
    jump(0)
    carol.connect().leave()


def test_tickets(own, peers, jump, federation):
    """From another day, or from the future, they are as good as none; then all is as before."""
    carol = Peer(federation.peer("carol", "clock"), federation.trust, CONTROL_V4).connect()
    carol.leave()
    assert carol.connect().resumed
    carol.leave()
    for seconds in 25 * HOUR, 0:  # ahead, and back again
        jump(seconds)
        assert not carol.connect().resumed
        carol.leave()
        assert carol.connect().resumed
        carol.leave()


def test_reload_while_it_is_wrong(own, peers, jump):
    """A certificate that isn't valid yet or any more isn't taken; what runs goes on."""
    jump(40 * DAY)
    answer = own.admin("reload")
    assert not answer["ok"] and "certificate has expired" in answer["error"]
    jump(0)
    assert own.admin("reload")["ok"]
