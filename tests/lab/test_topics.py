"""Topics: what is published reaches every member once, whatever else happens to them."""

import collections
import itertools
import json
import threading

import pytest

from peer import CRITICAL, FLAG_VIA, PING, PUBLISH, REQUEST, SEND, topic_id
from relay import eventually
from test_cli import Tool, finish

names = itertools.count(1)


@pytest.fixture
def topic():
    """The name of a topic of the test's own."""
    return f"test/{next(names)}"


def join_topic(peer, name, **more):
    answer = peer.control({"op": "join_topic", "name": name, **more})
    assert answer == {"ok": True}, answer


def leave_topic(peer, name):
    assert peer.control({"op": "leave_topic", "name": name}) == {"ok": True}


def publish(peer, name, payload=b"", **more):
    return peer.send(topic_id(name), payload, PUBLISH, **more)


def refusal(peer, tag):
    """Why the relay did not take a message; None if it did."""
    for _ in range(2):  # an error may be a burst behind the first pong, but not two
        ping = peer.send(peer.relay, kind=PING)
        message = peer.wait(lambda message: message.tag in (tag, ping))
        if message.tag == tag:
            return message.reason
    return None


def listed(relay, name):
    return next((entry for entry in relay.admin("topics")["topics"]
                 if entry["name"] == name), None)


@pytest.mark.parametrize("data", [
    pytest.param({}, id="one worker"),
    pytest.param({"workers": 2}, id="two workers",
                 marks=pytest.mark.relay(queues=2, data={"workers": 2}))])
def test_every_member_once(relay, join, topic, data):
    members = [join(f"member-{i}", lanes=2, spread=True) for i in range(6)]
    publisher = join("publisher", lanes=2, spread=True)
    before = relay.ledger()
    for member in members:
        join_topic(member, topic)
        join_topic(member, topic)
    count = 200
    for i in range(count):
        source = members[0] if i % 4 == 0 else publisher
        publish(source, topic, b"%d" % i, lane=i % 2, klass=CRITICAL if i % 3 else 1)
        if i % 20 == 0:
            publisher.poll(0.01)
    for member in members:
        own = set(range(0, count, 4)) if member is members[0] else set()
        got = [member.wait(lambda message: message.kind == PUBLISH) for _ in
               range(count - len(own))]
        assert {int(message.payload) for message in got} == set(range(count)) - own
        for message in got:
            sender = members[0] if int(message.payload) % 4 == 0 else publisher
            assert message.address == sender.identity.id
            assert message.via == topic_id(topic) and message.flags == FLAG_VIA
            assert message.hop_limit == 7
        member.poll(0.05)
        assert not member.inbox and not member.bad
    copies = count * 6 - count // 4
    assert (relay.ledger() - before)[1]["copies"] == copies
    entry = listed(relay, topic)
    assert entry["members"] == 6 and entry["published"] == count and entry["copies"] == copies


def test_join_and_leave(relay, join, topic):
    member, publisher = join("member"), join("publisher")
    assert refusal(publisher, publish(publisher, topic)) == "no_route"
    join_topic(member, topic)
    assert refusal(publisher, publish(publisher, topic, b"one")) is None
    assert member.wait(lambda message: message.kind == PUBLISH).payload == b"one"
    leave_topic(member, topic)
    assert refusal(publisher, publish(publisher, topic, b"two")) == "no_route"
    assert listed(relay, topic) is None
    # only publications go to a topic
    join_topic(member, topic)
    for kind in SEND, REQUEST:
        assert refusal(publisher, publisher.send(topic_id(topic), kind=kind)) == "unsupported"
    assert refusal(publisher, publisher.send(member.identity.id, kind=PUBLISH)) == "unsupported"
    # a membership ends with the session
    member.leave()
    eventually(lambda: listed(relay, topic) is None)


def test_gone_and_slow(relay, join, topic):
    """Members that are gone without a word or don't read cost the others nothing."""
    members = [join(f"member-{i}") for i in range(4)]
    publisher = join("publisher")
    for member in members:
        join_topic(member, topic)
    members[0].close()  # gone; the relay doesn't know
    members[0].path = None
    returned = members[1]
    got = collections.Counter()
    for i in range(300):
        publish(publisher, topic, b"%d" % i)
        if i == 100:
            returned.connect()  # a new session, which hasn't joined the topic
        for message in members[2].poll(0):
            got[message.payload] += 1
    # members[3] never reads: its socket holds what its kernel lets it
    eventually(lambda: got.update(m.payload for m in members[2].poll(0.01))
               or sum(got.values()) == 300,
               message=lambda: f"{sum(got.values())} of 300, {relay.drops().answer}")
    assert set(got.values()) == {1}
    join_topic(returned, topic)
    publish(publisher, topic, b"again")
    assert returned.wait(lambda message: message.payload == b"again").kind == PUBLISH


def test_joining_in_a_loop(relay, join, topic, neighbours):
    """One that joins and leaves without end; others lose nothing and get nothing twice."""
    steady, restless, publisher = join("steady"), join("restless"), join("publisher")
    join_topic(steady, topic)
    over = threading.Event()

    def fidget():
        request = itertools.cycle([{"op": "join_topic", "name": topic},
                                   {"op": "leave_topic", "name": topic}])
        while not over.is_set():
            for _ in range(20):
                restless.send(restless.relay, json.dumps(next(request)).encode(), 7, klass=3)
            restless.poll(0.001)
            restless.inbox.clear()
    thread = threading.Thread(target=fidget)
    thread.start()
    try:
        got = collections.Counter()
        for i in range(500):
            publish(publisher, topic, b"%d" % i)
            got.update(message.payload for message in steady.poll(0.002))
        eventually(lambda: got.update(m.payload for m in steady.poll(0.01))
                   or sum(got.values()) == 500)
    finally:
        over.set()
        thread.join()
    assert len(got) == 500 and set(got.values()) == {1}
    assert relay.admin("status")["ok"]


def test_bad_requests(relay, join, topic):
    peer = join("peer")

    def error(name, op="join_topic", **more):
        answer = peer.control({"op": op, "name": name, **more})
        assert answer["ok"] is False and answer["detail"]
        return answer["error"]
    for name in ("", "x" * 65, "Big", "a b", "-a", "/a", "ä"):
        assert error(name) == error(name, "leave_topic") == "name", name
    assert error("x" * 256) == "malformed"
    for name in ("viaduct", "relay/x", "viaduct-a"):
        assert error(name) == "denied"
    assert error(topic, cluster="another") == "denied"
    # by default a peer can't join for its cluster
    assert error(topic, cluster=peer.identity.name.split("/")[3]) == "denied"
    for wrong in ({"op": "join_topic"}, {"op": "join_topic", "name": 7}):
        assert peer.control(wrong)["error"] == "malformed"
    assert listed(relay, topic) is None


SMALL = {
    "max": 3, "members": 2, "per_peer": 2, "rate": 30, "publisher_rate": 20,
    "cluster_joins": "yes", "configured": [{"name": "news", "clusters": ["red", "green"]}],
}


@pytest.mark.relay(topics=SMALL)
def test_limits(relay, join):
    one, two, three = join("one"), join("two"), join("three")

    def error(peer, name):
        return peer.control({"op": "join_topic", "name": name}).get("error")
    assert error(one, "a") is None and error(one, "b") is None
    assert error(one, "c") == "limit"  # of the peer
    for i in range(50):
        assert error(two, f"topic-{i}") == "limit"
    assert error(two, "a") is None
    assert error(three, "a") == "limit"  # members
    assert [entry["name"] for entry in relay.admin("topics")["topics"]] == \
        ["news", "a", "b"]
    # rates, with a second's worth at once; in a moment of the relay's
    before = relay.drops()

    def refused(why):
        return relay.drops().dropped_since(before)[1].get(why, 0)
    with relay.suspended():
        for i in range(60):
            publish(one, "a", b"%d" % i)
    eventually(lambda: two.poll(0.01) or refused("publisher_rate") + len(two.inbox) == 60)
    assert refused("publisher_rate") >= 20
    assert {int(message.payload) for message in two.inbox} >= set(range(20))
    one.wait(lambda message: message.reason == "publisher_rate")
    with relay.suspended():
        for peer in one, two, three:
            for i in range(20):
                publish(peer, "a")
    eventually(lambda: refused("topic_rate") >= 5)
    two.wait(lambda message: message.reason == "topic_rate")


def test_very_many(relay, join, topic, neighbours):
    """Who asks for topics without end is refused, and nothing is left of it."""
    peer = join("greedy")
    before, topics = relay.ledger(), len(relay.admin("topics")["topics"])
    answers = collections.Counter()
    for i in range(2000):
        answer = peer.control({"op": "join_topic", "name": f"{topic}/{i}"})
        answers[answer.get("error", "ok")] += 1
    limit = answers.pop("ok")
    assert answers == {"limit": 2000 - limit}
    assert len(relay.admin("topics")["topics"]) == topics + limit
    # nor has anybody joined what is published to
    for i in range(2000, 4000):
        publish(peer, f"{topic}/{i}")
        if i % 20 == 0:
            peer.wait_tag(peer.send(peer.relay, kind=PING))
    eventually(lambda: relay.drops().dropped_since(before)[1] == {"no_route": 2000})
    peer.leave()
    eventually(lambda: len(relay.admin("topics")["topics"]) == topics)


@pytest.mark.relay(topics=SMALL)
def test_clusters(relay, join, federation):
    red, green, blue = (join(federation.peer("one", cluster))
                        for cluster in ("red", "green", "blue"))
    eventually(lambda: listed(relay, "news")["members"] == 2)
    tag = publish(blue, "news", b"to all")
    for peer in red, green:
        message = peer.wait(lambda message: message.kind == PUBLISH)
        assert (message.payload, message.tag) == (b"to all", tag)
    # a cluster by wish, for as long as who asked for it is there
    other = join(federation.peer("two", "green"))
    join_topic(green, "green/all", cluster="green")
    publish(blue, "green/all", b"to green")
    for peer in green, other:
        assert peer.wait(lambda message: message.kind == PUBLISH).payload == b"to green"
    leave_topic(green, "green/all")
    assert refusal(blue, publish(blue, "green/all")) == "no_route"
    # a reload changes who is a member, and loses nothing
    relay.reload(topics={"configured": [{"name": "news", "clusters": ["blue"]}]})
    eventually(lambda: listed(relay, "news")["members"] == 1)
    publish(red, "news", b"to blue")
    assert blue.wait(lambda message: message.kind == PUBLISH).payload == b"to blue"
    relay.reload(topics=SMALL)


@pytest.mark.relay(policy={"rules": [{"from": "red", "to": []}]})
def test_policy(relay, join, federation):
    red, green, blue, second = (join(federation.peer(*who)) for who in (
        ("one", "red"), ("one", "green"), ("one", "blue"), ("two", "red")))
    for peer in red, green, blue, second:
        join_topic(peer, "open")
    before = relay.drops()
    publish(red, "open", b"red")
    assert second.wait(lambda message: message.kind == PUBLISH).payload == b"red"
    publish(green, "open", b"green")
    for peer in red, blue:
        assert peer.wait(lambda message: message.kind == PUBLISH).payload == b"green"
    relay.expect_drops(before, messages={"policy": 2})


def test_tool(relay, federation, identities, join, topic):
    listener = Tool(federation.trust, identities("listener"), relay.admin_socket)
    speaker = Tool(federation.trust, identities("speaker"), relay.admin_socket)
    heard = listener.start("listen", "--topic", topic, "--count", "3", "--json")
    assert heard.stderr.readline() == f"joined topic {topic}\n"
    independent = join("independent")
    join_topic(independent, topic)
    assert speaker.json("publish", topic, "one") == [{"sent": 1, "refused": 0}]
    speaker.run("publish", topic, text="two\nthree\n")
    lines = [json.loads(line) for line in finish(heard).splitlines()]
    assert [(line["text"], line["topic"], line["kind"]) for line in lines] == \
        [(text, topic, "publish") for text in ("one", "two", "three")]
    assert {line["from"] for line in lines} == {speaker.identity.text}
    assert [independent.wait(lambda m: m.kind == PUBLISH).payload for _ in range(3)] == \
        [b"one", b"two", b"three"]
    publish(independent, topic, b"four")
    # nobody is left
    leave_topic(independent, topic)
    eventually(lambda: listed(relay, topic) is None)
    refused = speaker.json("publish", topic, "five", status=1)
    assert refused == [{"refused": 1, "reason": "no_route"}, {"sent": 1, "refused": 1}]
    assert "denied: names" in speaker.run("listen", "--topic", "relay", status=1).stderr
    join_topic(independent, topic)
    assert topic in speaker.run("topics").stdout
