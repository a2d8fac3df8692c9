"""A wall clock that jumps: only certificates, CRLs and tickets have to do with it."""

import os

import pytest
from OpenSSL import SSL

from relay import BUILD, eventually

CLOCK = os.path.join(BUILD, "tests", "clock", "clock.so")
HOUR, DAY = 3600, 86400


@pytest.fixture
def relay(make_relay, tmp_path):
    return make_relay(tls={"tickets": "tickets"}, session={"keepalive": 1, "expiry": 5},
                      environment={"LD_PRELOAD": CLOCK,
                                   "CLOCK_FILE": str(tmp_path / "clock")}).start()


@pytest.fixture
def jump(relay, tmp_path):
    def jump(seconds):
        """Puts the relay's clock so far ahead of ours."""
        (tmp_path / "clock.new").write_text(str(seconds))
        os.rename(tmp_path / "clock.new", tmp_path / "clock")
    return jump


def test_sessions_go_on(relay, neighbours, jump):
    """Through more than `expiry` of either clock."""
    for seconds in 40 * DAY, -40 * DAY, HOUR, -HOUR, 0:
        jump(seconds)
        sent = neighbours.sent
        eventually(lambda: neighbours.sent > sent + 50)
    eventually(lambda: relay.admin("status")["uptime_s"] > 5)
    assert not [line for line in relay.log_lines() if line.get("reason") == "expired"]
    assert {peer["state"] for peer in relay.peers().values()} == {"joined"}


def test_who_is_silent_expires_all_the_same(relay, join, neighbours, jump):
    carol = join("carol")
    jump(-10 * DAY)
    eventually(lambda: carol.identity.text not in relay.peers())


def test_certificates(join, neighbours, jump):
    """Are judged by the time of day that it is now."""
    carol = join("carol")
    carol.leave()
    for seconds, alert in (40 * DAY, "certificate expired"), (-40 * DAY, "bad certificate"):
        jump(seconds)
        with pytest.raises(SSL.Error, match=alert):
            carol.join()
        carol.ticket = None
    jump(0)
    carol.connect().leave()


def test_tickets(join, neighbours, jump):
    """From another day, or from the future, they are as good as none; then all is as before."""
    carol = join("carol")
    carol.leave()
    assert carol.connect().resumed
    carol.leave()
    for seconds in 25 * HOUR, 0:  # ahead, and back again
        jump(seconds)
        assert not carol.connect().resumed
        carol.leave()
        assert carol.connect().resumed
        carol.leave()


def test_reload_while_it_is_wrong(relay, neighbours, jump):
    """A certificate that isn't valid yet or any more isn't taken; what runs goes on."""
    jump(40 * DAY)
    answer = relay.admin("reload")
    assert not answer["ok"] and "certificate has expired" in answer["error"]
    jump(0)
    relay.reload()
