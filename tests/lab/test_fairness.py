"""Rates of peers and clusters, and what happens when there is more than a worker can handle.

A worker that was stopped meanwhile finds all of it in its ring, whatever the machine. A ring holds
2,048 datagrams, so what shall be more than a worker can handle comes in bundles.
"""

import pytest

from peer import (BULK, CONTROL_CLASS, CRITICAL, NORMAL, PING, PONG, RESPONSE, SEND, Message,
                  bundle_pack)
from relay import eventually

SLOW = {"messages_per_second": 1, "burst": 30000}  # thirty, and then one a second
BUNDLE = 8


@pytest.fixture
def relay(make_relay):
    return make_relay().start()


def limit(relay, **limits):
    relay.config["limits"] = limits
    relay.configure()
    return relay.admin("reload")


def say(sender, receiver, count, **fields):
    for _ in range(count):
        sender.send(receiver.identity.id, **fields)


def listen(*peers):
    """Takes in what has come of all that was sent before."""
    heard = {peer: [] for peer in peers}
    # the relay has seen to it when it answers the second ping: the first overtakes some
    for turn in range(2):
        for peer in peers:
            tag = peer.send(peer.relay, kind=PING, klass=CONTROL_CLASS)
            peer.wait(lambda message: message.kind == PONG and message.tag == tag)
    for peer in peers:
        heard[peer].extend(peer.inbox)
        peer.inbox.clear()

    def quiet():
        new = [heard[peer].extend(messages) or messages for peer in peers
               if (messages := peer.poll(0.1))]
        return not new
    eventually(quiet, message="they don't stop")
    return heard


def told(messages):
    return sum(message.reason == "rate" for message in messages)


def arrived(messages):
    return sum(message.kind == SEND for message in messages)


def limited(relay, count, before):
    """Waits until it is known what became of `count` messages; those and records over a rate."""
    def done():
        now = relay.drops()
        messages = now.messages["dropped"]["rate"] - before.messages["dropped"]["rate"]
        records = now.records["dropped"]["rate"] - before.records["dropped"]["rate"]
        sent = now.messages["delivered"] - before.messages["delivered"]
        made = now.messages["made"] - before.messages["made"]
        return messages + records + sent - made == count and (messages, records)
    return eventually(done)


def test_peer(relay, join):
    one, other, third = join("one"), join("other"), join("third")
    assert limit(relay, peer=SLOW)["ok"]
    before = relay.drops()
    say(one, other, 100)
    messages, records = limited(relay, 100, before)
    heard = listen(one, other)
    # thirty, and what came in the meantime; who was opened is told, and nobody else
    assert 30 <= arrived(heard[other]) == 100 - messages - records < 60
    assert told(heard[one]) == messages > 0
    # others don't notice
    say(third, other, 25)
    assert arrived(listen(other)[other]) == 25


def test_bytes(relay, join):
    one, other = join("one"), join("other")
    # ten records of 1,056 bytes
    assert limit(relay, peer={"bytes_per_second": 500, "burst": 21500})["ok"]
    before = relay.drops()
    say(one, other, 30, payload=bytes(1000))
    messages, records = limited(relay, 30, before)
    assert 10 <= arrived(listen(other)[other]) == 30 - messages - records < 20


def test_cluster(relay, join, federation):
    one, other, third = (join(federation.peer(*who)) for who in (
        ("one", "red"), ("other", "red"), ("third", "blue")))
    assert limit(relay, clusters=[{"name": "red", **SLOW}])["ok"]
    before = relay.drops()
    # together they have no more than one of them
    say(one, third, 25)
    say(other, third, 25)
    messages, records = limited(relay, 50, before)
    heard = listen(one, other, third)
    assert 30 <= arrived(heard[third]) == 50 - messages < 45
    assert records == 0 and told(heard[one] + heard[other]) == messages
    say(third, one, 60)
    assert arrived(listen(one)[one]) == 60


def test_reload(relay, join):
    one, other = join("one"), join("other")
    for limits, free in (({"peer": SLOW}, False), ({"shed": "yes"}, True),
                         ({"peer": SLOW}, False),
                         ({"peer": {"messages_per_second": 100000}}, True)):
        assert limit(relay, **limits)["ok"]
        say(one, other, 60)
        assert (arrived(listen(other)[other]) == 60) == free


@pytest.mark.parametrize("limits, error", [
    ({"peer": {"messages_per_second": -1}}, "messages_per_second: -1 is not allowed"),
    ({"peer": {"messages_per_second": "many"}}, "messages_per_second: many is not allowed"),
    ({"peer": {"messages": 1}}, "limits.peer.messages: unknown"),
    ({"peer": 1}, "must be a section"),
    ({"levels": [{}] * 4}, "too many; at most 3"),
    ({"clusters": [{"messages_per_second": 1}]}, "name: is missing"),
    ({"control_share": 51}, "a whole number from 1 to 50"),
    ({"shed": "perhaps"}, "one of no, yes"),
])
def test_bad_limits(relay, limits, error):
    answer = limit(relay, **limits)
    assert not answer["ok"] and error in answer["error"], answer


def put(sender, records):
    """Sends records in bundles; returns how many of those."""
    for first in range(0, len(records), BUNDLE):
        sender.transmit(bundle_pack(records[first:first + BUNDLE]))
    return len(range(0, len(records), BUNDLE))


def sealed(sender, receiver, count, klass_of=lambda _: BULK, kind=SEND):
    return [sender.seal([Message(kind, receiver.identity.id, b"", number)], klass=klass_of(number))
            for number in range(count)]


def overwhelm(relay, count, send):
    """Has send() send so many records while nobody works, and waits until all are dealt with.

    It returns in how many datagrams."""
    def come():
        return relay.lab.relay_counter()["rx"]["packets"]
    before, come_before = relay.drops().records["received"], come()
    with relay.suspended():
        datagrams = send()
        eventually(lambda: come() >= come_before + datagrams)
    eventually(lambda: relay.drops().records["received"] >= before + count)


def test_critical_survives(relay, join):
    one, other = join("one"), join("other")
    before = relay.drops()
    records = sealed(one, other, 2400, kind=RESPONSE, klass_of=lambda number: (
        CRITICAL if number % 24 == 0 else NORMAL if number % 24 == 1 else BULK))
    overwhelm(relay, 2400, lambda: put(one, records))
    now = relay.ledger()
    records, messages = now - before
    assert records["received"] >= 2400 and set(records["dropped"]) == {"shed_bulk"}
    classes = now.answer["classes"]
    assert classes["critical"]["messages"]["delivered"] == 100
    assert classes["normal"]["messages"]["delivered"] >= 100
    assert (classes["bulk"]["messages"]["delivered"]
            + classes["bulk"]["records"]["dropped"]["shed_bulk"] == 2200)
    # in all, per worker, and per class
    check = relay.viaduct("drops", "--check").stdout
    assert check.count("balances") == 20 and "DOES NOT" not in check
    assert "shed_bulk" in relay.viaduct("drops").stdout


def test_flood_beside_others(relay, join):
    flooder, friend, reader = join("flooder"), join("friend"), join("reader")
    others = [join(f"other{number}") for number in range(5)]
    flood = sealed(flooder, friend, 2400, lambda _: NORMAL, kind=RESPONSE)

    def send():
        datagrams = put(flooder, flood)
        for other in others:
            say(other, reader, 20)
        return datagrams + 100
    overwhelm(relay, 2500, send)
    assert arrived(listen(reader)[reader]) == 100
    assert relay.ledger().records["dropped"]["shed_normal"] > 100


def test_a_moment_without_a_core(relay, join):
    """What has piled up in it can be forwarded, so nothing of it is shed."""
    one, other = join("one"), join("other")
    records = sealed(one, other, 1600)
    before = relay.ledger()

    def send():
        for record in records:
            one.transmit(record)
        return len(records)
    overwhelm(relay, 1600, send)
    records, messages = relay.ledger() - before
    assert records["dropped"] == messages["dropped"] == {}
    assert messages["delivered"] >= 1600


def test_no_shedding(relay, join):
    """Then the ring is what overflows, whatever is in it."""
    one, other = join("one"), join("other")
    assert limit(relay, shed="no")["ok"]
    records = sealed(one, other, 2400, kind=RESPONSE)
    overwhelm(relay, 2400, lambda: put(one, records))
    assert relay.ledger().records["dropped"]["shed_bulk"] == 0
