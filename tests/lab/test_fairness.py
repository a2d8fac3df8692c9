"""Rates of peers and clusters, and what happens when there is more than a worker can handle.

A worker that was stopped meanwhile finds more in its ring than it has room for, whatever the machine.
Awake and stopped for long enough, it takes that for an overload; a busy one is always awake.
"""

import os
import signal
import time

import pytest

from peer import BULK, CRITICAL, NORMAL, RESPONSE, SEND, Message
from relay import eventually

SLOW = {"messages_per_second": 1, "burst": 30000}  # thirty, and then one a second


@pytest.fixture
def relay(make_relay, polling):
    return make_relay(data={"polling": polling}).start()


def limit(relay, **limits):
    relay.config["limits"] = limits
    relay.configure()
    return relay.admin("reload")


def say(sender, receiver, count, **fields):
    for _ in range(count):
        sender.send(receiver.identity.id, **fields)


def listen(*peers):
    """Takes in what has come, for as long as there is something."""
    heard = {peer: [] for peer in peers}

    def quiet():
        new = [heard[peer].extend(messages) or messages for peer in peers
               if (messages := peer.poll(0.1))]
        return not new
    eventually(quiet, 10, "they don't stop")
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


awake = pytest.mark.parametrize("polling", ["busy"])


def overwhelm(relay, count, send, seconds=0.6):
    """Has send() send so many records while nobody works, and waits until all are dealt with."""
    before = relay.drops().records["received"]
    os.kill(relay.process.pid, signal.SIGSTOP)
    try:
        send()
        time.sleep(seconds)
    finally:
        os.kill(relay.process.pid, signal.SIGCONT)
    eventually(lambda: relay.drops().records["received"] >= before + count)


@awake
def test_critical_survives(relay, join):
    one, other = join("one"), join("other")
    before = relay.drops()

    def send():
        for number in range(1600):
            klass = CRITICAL if number % 16 == 0 else NORMAL if number % 16 == 1 else BULK
            one.send(other.identity.id, kind=RESPONSE, klass=klass)
    overwhelm(relay, 1600, send)
    now = relay.ledger()
    records, messages = now - before
    assert records["received"] >= 1600 and set(records["dropped"]) == {"shed_bulk"}
    classes = now.answer["classes"]
    assert classes["critical"]["messages"]["delivered"] == 100
    assert classes["normal"]["messages"]["delivered"] >= 100
    assert (classes["bulk"]["messages"]["delivered"]
            + classes["bulk"]["records"]["dropped"]["shed_bulk"] == 1400)
    # in all, per worker, and per class
    check = relay.viaduct("drops", "--check").stdout
    assert check.count("balances") == 20 and "DOES NOT" not in check
    assert "shed_bulk" in relay.viaduct("drops").stdout


@awake
def test_flood_beside_others(relay, join):
    flooder, friend, reader = join("flooder"), join("friend"), join("reader")
    others = [join(f"other{number}") for number in range(5)]

    def send():
        say(flooder, friend, 1600, kind=RESPONSE)
        for other in others:
            say(other, reader, 20)
    overwhelm(relay, 1700, send)
    assert arrived(listen(reader)[reader]) == 100
    assert relay.ledger().records["dropped"]["shed_normal"] > 100


def test_a_moment_without_a_core(relay, join):
    """What came while the worker slept can be forwarded, so nothing of it is shed."""
    one, other = join("one"), join("other")
    records = [one.seal([Message(SEND, other.identity.id, b"", number)], klass=BULK)
               for number in range(1600)]
    before = relay.ledger()

    def send():
        for record in records:
            one.transmit(record)
    overwhelm(relay, 1600, send)
    records, messages = relay.ledger() - before
    assert records["dropped"] == messages["dropped"] == {}
    assert messages["delivered"] >= 1600


@awake
def test_no_shedding(relay, join):
    """Then the ring is what overflows, whatever is in it."""
    one, other = join("one"), join("other")
    assert limit(relay, shed="no")["ok"]
    overwhelm(relay, 1600, lambda: say(one, other, 1600, kind=RESPONSE, klass=BULK))
    assert relay.ledger().records["dropped"]["shed_bulk"] == 0
