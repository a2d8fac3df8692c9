"""Scores: who misbehaves is slowed down, cut, and may come back; complaints; an operator's word."""

import os

import pytest

from peer import CONTROL, CONTROL_CLASS, Refused
from relay import eventually

# a cut is short, so that it can be waited for
SHORT = {"scores": "scores", "cut_seconds": 8, "cut_seconds_max": 32}


def trust(relay, peer, do=None):
    question = {"cmd": "trust", "peer": peer.identity.text}
    return relay.admin({**question, "do": do} if do else question)


def causes(relay, peer):
    return {cause["cause"]: cause for cause in trust(relay, peer)["causes"]}


def misbehave(peer, until):
    """Malformed records, and requests that are none: at most 20 points a second."""
    def again():
        for number in range(5):
            peer.transmit(peer.seal_raw(peer.header(), b"x" * 30))
            peer.send(peer.relay, b"nonsense", CONTROL, klass=CONTROL_CLASS)
        peer.poll(0.2)
        return until()
    peer.events.clear()
    eventually(again, 120)


@pytest.mark.relay(trust=SHORT)
def test_cut(relay, join, neighbours):
    alice, bob = join("alice"), join("bob")
    misbehave(alice, lambda: alice.events)
    assert alice.wait_event("cut")["retry_after"] == 8
    assert alice.identity.text not in relay.peers()
    assert bob.wait_tag(bob.send(alice.identity.id)).reason == "no_route"
    with pytest.raises(Refused) as refused:
        alice.connect()
    assert refused.value.answer["error"] == "cut"
    assert 1 <= refused.value.answer["retry_after"] <= 8
    # why
    known = trust(relay, alice)
    assert known["score"] < 0.3 and known["cuts"] == 1
    found = causes(relay, alice)
    assert set(found) - {"limit"} == {"malformed", "control"}  # it may also be too fast
    assert abs(sum(cause["share"] for cause in found.values()) - 1) < 0.001
    shown = relay.viaduct("trust", alice.identity.name)
    assert "malformed" in shown.stdout and "cut 1 times" in shown.stdout
    assert trust(relay, bob)["score"] == 1

    # time helps; but it is remembered
    eventually(lambda: trust(relay, alice)["cut_s"] == 0)
    alice.connect()
    assert trust(relay, alice)["level"] == relay.peers()[alice.identity.text]["level"] == 3
    assert alice.wait_tag(bob.send(alice.identity.id))
    # and an operator's word
    assert relay.viaduct("trust", alice.identity.name, "pardon").returncode == 0
    assert trust(relay, alice)["score"] == 1 and trust(relay, alice)["level"] == 0


@pytest.mark.relay(trust=SHORT)
def test_restart(relay, join):
    alice = join("alice")
    misbehave(alice, lambda: trust(relay, alice)["score"] < 0.9)
    alice.leave()
    before = trust(relay, alice)
    relay.stop()
    relay.start()
    after = trust(relay, alice)
    assert before["score"] <= after["score"] < 1 and after["name"] == alice.identity.name
    assert {cause["cause"]: cause["times"] for cause in after["causes"]} == {
        cause["cause"]: cause["times"] for cause in before["causes"]}


@pytest.mark.relay(trust=SHORT)
def test_watched(relay, join, watch, neighbours):
    """Each step is an event."""
    alice = join("alice")
    assert watch(alice)["event"] == "joined"
    misbehave(alice, lambda: trust(relay, alice)["level"])
    assert trust(relay, alice)["level"] == 1
    assert trust(relay, alice, "pardon")["ok"]
    assert [watch(alice)["event"] for _ in range(3)] == ["throttled", "pardoned", "recovered"]


@pytest.mark.relay(trust=SHORT, limits={"peer": {"messages_per_second": 500, "burst": 200}})
def test_over_its_rate(relay, join, neighbours):
    """Who sends too much loses more than what is too much."""
    alice, bob = join("alice"), join("bob")

    def flood():
        for number in range(500):
            alice.send(bob.identity.id)
        alice.poll()
        bob.poll()
        return "limit" in causes(relay, alice)
    eventually(flood)
    assert trust(relay, alice)["score"] < 1 and trust(relay, bob)["score"] == 1


@pytest.mark.relay(trust=SHORT)
def test_pin(relay, join, make_peer, neighbours):
    alice = join("alice")
    assert relay.viaduct("trust", alice.identity.name, "pin").returncode == 0
    misbehave(alice, lambda: trust(relay, alice)["score"] < 0.6)
    assert trust(relay, alice)["level"] == 0
    assert "pinned" in relay.viaduct("trust").stdout
    assert relay.viaduct("trust", alice.identity.text, "unpin").returncode == 0
    eventually(lambda: trust(relay, alice)["level"] >= 1)
    for nonsense in ("nobody",), (alice.identity.text, "kiss"):
        assert relay.viaduct("trust", *nonsense).returncode == 1
    assert relay.viaduct("trust", "a", "b", "c").returncode == 2
    trust(relay, alice, "pardon")


def complain(peer, about, reason="spam"):
    return peer.control({"op": "complain", "peer": about.identity.text, "reason": reason})


@pytest.mark.relay(trust=SHORT)
def test_complaints(relay, join, make_peer, neighbours):
    honest = join("honest")
    gang = [join(f"gang{number}") for number in range(3)]
    for member in gang:
        assert complain(member, honest) == {"ok": True}
    known = trust(relay, honest)
    assert known["level"] == 0 and 0.75 < known["score"] < 1
    assert known["complaint"] == {"by": gang[-1].identity.text, "reason": "spam"}
    # however often they say so
    for member in gang:
        for number in range(30):
            assert complain(member, honest, f"spam {number}")["ok"]
    again = trust(relay, honest)
    assert again["level"] == 0 and again["score"] >= known["score"]

    stranger = make_peer("stranger")
    assert complain(gang[0], stranger)["error"] == "unknown"
    assert complain(gang[0], gang[0])["error"] == "malformed"
    assert complain(gang[0], honest, "x" * 65)["error"] == "malformed"
    assert gang[0].control({"op": "complain", "peer": "nobody", "reason": ""})["error"] == \
        "malformed"
    assert gang[0].control({"op": "complain", "reason": ""})["error"] == "malformed"


@pytest.mark.relay(trust=SHORT)
def test_complaints_about_everybody(relay, join, neighbours):
    loud = join("loud")
    others = [join(f"other{number}") for number in range(17)]
    answers = [complain(loud, other) for other in others]
    assert answers[:16] == [{"ok": True}] * 16
    assert answers[16]["error"] == "busy" and answers[16]["retry_after"] > 0
    assert all(trust(relay, other)["level"] == 0 for other in others)
    # which is held against who does it
    eventually(lambda: trust(relay, loud)["score"] < 1)


@pytest.mark.relay(trust=SHORT)
def test_damaged_file(relay, join):
    """The relay starts with what can be read, and lays aside what can't."""
    alice = join("alice")
    trust(relay, alice, "pin")
    alice.leave()
    relay.stop()
    file = os.path.join(relay.directory, "scores")
    with open(file, "a") as scores:
        scores.write('{"id":"half a li')
    begin = relay.log_size()
    relay.start()
    assert trust(relay, alice)["pinned"]
    assert [line["lines"] for line in relay.log_lines(begin)
            if line["msg"] == "scores not read"] == ["1"]
    trust(relay, alice, "unpin")
    relay.stop()
    with open(file, "wb") as scores:
        scores.write(b"\0\xff" * 1000)
    begin = relay.log_size()
    relay.start()
    assert not trust(relay, alice)["pinned"]
    line = next(line for line in relay.log_lines(begin) if line["msg"] == "scores not read")
    assert line["level"] == "error" and ".bad" in line["advice"]
    assert os.path.getsize(file + ".bad") == 2000 and not os.path.exists(file)


@pytest.mark.relay(trust=SHORT)
def test_file_cannot_be_written(relay, join, neighbours):
    """All works, and the log says so."""
    alice = join("alice")
    # a folder in the place of the file that is written first: as root, nothing else is in the way
    os.mkdir(os.path.join(relay.directory, "scores.new"))
    try:
        begin = relay.log_size()
        trust(relay, alice, "pin")
        line = eventually(lambda: relay.said("scores not kept", begin))[0]
        assert line["level"] == "warning"
        assert trust(relay, alice)["pinned"]
    finally:
        os.rmdir(os.path.join(relay.directory, "scores.new"))
    trust(relay, alice, "unpin")
