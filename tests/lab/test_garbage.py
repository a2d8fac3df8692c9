"""What comes from sources that only send garbage is dropped unread: in the XDP program, or by the
workers where there is none. Nobody else is."""

import socket

import pytest

from netns import PEER_V4, PEER_V6, ROAMING_V4
from relay import CONTROL_V4, CONTROL_V6, eventually

SOURCE = ROAMING_V4[0]
QUICK = {"bad_records_per_second": 100, "block_seconds": 2, "block_seconds_max": 4}
pytestmark = pytest.mark.parametrize("driver", ["af_xdp", "af_packet"])
KINDS = {  # sizes and first bytes of what isn't a record of anybody's
    "too short": b"x",
    "another version": b"\x77" * 100,
    "no such session": b"\x10" + bytes(99),
}


def throw(source, count=200, relay=CONTROL_V4, datagram=b"\x10" + bytes(99)):
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        for number in range(count):
            sock.sendto(datagram, relay)


def garbage(relay):
    return relay.admin("drops")["garbage"]


def blocked(relay):
    return {source["source"]: source for source in garbage(relay)["sources"]}


def throw_until_blocked(relay, source=SOURCE, count=200, **options):
    """And until all of it has been counted, as a blocked source's or in the ledger."""
    before, ahead, thrown = relay.drops(), garbage(relay)["dropped"], 0

    def is_blocked():
        nonlocal thrown
        throw(source, count, **options)
        thrown += count
        return source in blocked(relay)

    def counted():
        return (garbage(relay)["dropped"] - ahead
                + sum(relay.drops().dropped_since(before)[0].values()))
    eventually(is_blocked)
    eventually(lambda: counted() == thrown, message=lambda: f"{counted()} of {thrown} counted")


def throw_until_dropped(relay, source=SOURCE, count=100):
    throw_until_blocked(relay, source)
    before = relay.ledger()
    dropped = blocked(relay)[source]["dropped"]
    throw(source, count)
    eventually(lambda: blocked(relay)[source]["dropped"] == dropped + count)
    after = relay.ledger()
    # in no ledger
    assert (after - before)[0]["dropped"] == {}


@pytest.mark.relay(trust={**QUICK, "block_seconds": 60, "block_seconds_max": 60})
def test_dropped(relay, join, neighbours):
    alice, bob = join("alice"), join("bob")
    throw_until_blocked(relay)
    before = blocked(relay)[SOURCE]["dropped"]
    throw(SOURCE, 100)
    eventually(lambda: blocked(relay)[SOURCE]["dropped"] == before + 100)
    assert garbage(relay)["dropped"] >= before + 100
    assert alice.wait_tag(bob.send(alice.identity.id))
    shown = relay.viaduct("drops").stdout
    assert f"{SOURCE}: {before + 100} dropped" in shown


@pytest.mark.relay(trust={**QUICK, "block_seconds": 60, "block_seconds_max": 60})
def test_not_received(relay):
    """It is before the ledger's `received`."""
    throw_until_dropped(relay, ROAMING_V4[1])
    assert relay.viaduct("drops", "--check").returncode == 0


@pytest.mark.relay(queues=2, data={"workers": 2},
                   trust={**QUICK, "block_seconds": 60, "block_seconds_max": 60})
def test_every_worker(relay, neighbours):
    """Also what comes to workers that have never seen the source."""
    throw_until_blocked(relay)
    before = relay.drops()
    dropped = blocked(relay)[SOURCE]["dropped"]
    for number in range(20):
        throw(SOURCE, 10)  # from another port, so that both get some
    eventually(lambda: blocked(relay)[SOURCE]["dropped"] == dropped + 200)
    assert relay.drops().dropped_since(before) == ({}, {})


# long enough to be seen, however busy the machine is
@pytest.mark.relay(trust={**QUICK, "block_seconds": 5, "block_seconds_max": 5})
@pytest.mark.parametrize("kind", KINDS)
def test_expires(relay, neighbours, kind):
    throw_until_blocked(relay, datagram=KINDS[kind])
    times = garbage(relay)["times"]
    eventually(lambda: SOURCE not in blocked(relay))
    # and begins again with who does
    throw_until_blocked(relay, datagram=KINDS[kind])
    assert garbage(relay)["times"] == times + 1
    eventually(lambda: SOURCE not in blocked(relay))


@pytest.mark.relay(trust={**QUICK, "block_seconds": 60, "block_seconds_max": 60})
def test_join_lifts(relay, join, neighbours):
    """Garbage with somebody's address doesn't keep him away."""
    throw_until_blocked(relay)
    lifted = garbage(relay)["lifted"]
    alice = join("alice", source=SOURCE)
    assert SOURCE not in blocked(relay) and garbage(relay)["lifted"] == lifted + 1
    # nor throw him out again: what comes from there is looked at, and dropped one by one
    spared = garbage(relay)["spared"]
    eventually(lambda: throw(SOURCE) or garbage(relay)["spared"] > spared)
    assert SOURCE not in blocked(relay)
    assert alice.wait_tag(alice.send(alice.identity.id))


@pytest.mark.relay(trust=QUICK)
def test_members_address(relay, neighbours):
    """The neighbours are at this one."""
    spared = garbage(relay)["spared"]
    eventually(lambda: throw(PEER_V4) or garbage(relay)["spared"] > spared)
    assert PEER_V4 not in blocked(relay)


@pytest.mark.relay(trust=QUICK)
def test_ipv6(relay, join, neighbours):
    """By /64."""
    network = PEER_V6.split("::")[0] + "::"
    eventually(lambda: throw(PEER_V6, relay=CONTROL_V6) or network in blocked(relay))
    join("alice", control=CONTROL_V6)
    assert network not in blocked(relay)


def throw_dropped_by_worker(relay, rounds=20):
    """Far more than would be blocked; never more at once than any ring holds."""
    before = relay.drops()
    for number in range(1, rounds + 1):
        throw(SOURCE, 100)
        eventually(lambda: relay.drops().dropped_since(before)[0] == {
            "session_unknown": 100 * number})


@pytest.mark.relay(trust={"bad_records_per_second": 0})
def test_switched_off(relay, neighbours):
    throw_dropped_by_worker(relay)
    assert garbage(relay)["times"] == 0 and blocked(relay) == {}
