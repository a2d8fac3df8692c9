"""Which clusters may talk to which, also when that changes."""

import pytest

from peer import PING, REQUEST
from relay import eventually

RULES = [{"from": "red", "to": ["green"]}, {"from": "grey", "to": []}]


@pytest.fixture
def relay(make_relay):
    return make_relay(policy={"rules": RULES}).start()


@pytest.fixture
def peers(join, federation):
    return {cluster: join(federation.peer("one", cluster))
            for cluster in ("red", "green", "blue", "grey")}


def may(peers, sender, receiver, kind=REQUEST):
    tag = peers[sender].send(peers[receiver].identity.id, kind=kind)
    peers[sender].ping_relay()

    def told():
        for name in sender, receiver:
            for message in peers[name].poll(0.01):
                if message.tag == tag:
                    return message.reason or "arrived"
        return None
    return eventually(told) == "arrived" or "policy"


def table(peers):
    return {(sender, receiver) for sender in peers for receiver in peers
            if may(peers, sender, receiver) is True}


def everything(peers):
    return {(sender, receiver) for sender in peers for receiver in peers}


def apply(relay, rules):
    relay.reload(policy={"rules": rules})


def test_rules(relay, peers):
    before = relay.drops()
    forbidden = {("red", "blue"), ("red", "grey"), ("grey", "red"), ("grey", "green"),
                 ("grey", "blue")}
    assert table(peers) == everything(peers) - forbidden
    relay.expect_drops(before, messages={"policy": len(forbidden)})
    # who isn't told of anything isn't told of this
    peers["red"].send(peers["blue"].identity.id, kind=PING)
    relay.expect_drops(before, messages={"policy": len(forbidden) + 1})


def test_reload(relay, peers):
    """Sessions that are there get the new rules, of clusters that had no number before as well."""
    apply(relay, None)
    assert table(peers) == everything(peers)
    apply(relay, [{"from": "blue", "to": ["red"]}, {"from": "blue", "to": ["grey"]}])
    assert table(peers) == everything(peers) - {("blue", "green")}
    for number in range(20):
        apply(relay, RULES if number % 2 else [{"from": f"other{number}", "to": ["red"]}])
        assert may(peers, "red", "green") is True
        assert (may(peers, "red", "blue") is True) == (number % 2 == 0)


def test_who_is_told_of_whom(relay, peers):
    """Nobody finds, or is told of, whom it may not send to."""
    def found(asker):
        listed = {peer["id"] for peer in peers[asker].control({"op": "peers"})["peers"]}
        for cluster, peer in peers.items():
            for question in ({"op": "peers", "cluster": cluster},
                             {"op": "resolve", "name": peer.identity.name}):
                answer = [one["id"] for one in peers[asker].control(question)["peers"]]
                assert answer == [peer.identity.text] * (peer.identity.text in listed)
        return {cluster for cluster, peer in peers.items() if peer.identity.text in listed}
    assert found("red") == {"red", "green"}
    assert found("grey") == {"grey"}
    assert found("blue") == set(peers)
    apply(relay, None)
    assert found("grey") == set(peers)


def test_bad_rules(relay, peers):
    for rules, error in ((["red"], "must be a section"), ([{"from": "red"}], "to: is missing"),
                         ([{"from": "", "to": []}], "must not be empty"),
                         ([{"from": "red", "to": "green"}], "must be a list"),
                         ([{"from": "x" * 64, "to": []}], "too long")):
        relay.configure(policy={"rules": rules})
        answer = relay.admin("reload")
        assert not answer["ok"] and error in answer["error"], answer
    assert may(peers, "red", "blue") == "policy"
