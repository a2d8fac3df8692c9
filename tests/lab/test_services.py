"""Services: registering, being asked, ending, and what nobody may do."""

import hashlib

import pytest

from peer import (ERROR, FLAG_FAILED, FLAG_KEY, FLAG_VIA, REQUEST, RESPONSE, SEND, Peer,
                  id_text)
from relay import CONTROL_V4, eventually

pytestmark = pytest.mark.relay(services={"names": [
    {"name": "owned", "clusters": ["owners"], "policy": "round_robin"},
    {"name": "quick", "policy": "round_robin", "slow_start": 1, "silent": 2000, "timeout": 5000}]})


def service_id(name):
    return hashlib.sha256(b"viaduct service " + name.encode()).digest()[:16]


def register(peer, name, **fields):
    return peer.control({"op": "register", "service": name, **fields})


def services(relay):
    return {service["name"]: service for service in relay.admin({"cmd": "services"})["services"]}


def asked(instances, tag):
    """The instance that a request has come to, and the request."""
    def found():
        for instance in instances:
            instance.poll(0.005)
            for message in instance.inbox:
                if message.kind == REQUEST and message.tag == tag:
                    instance.inbox.remove(message)
                    return instance, message
        return None
    return eventually(found)


def respond(instance, request, payload=b"done", flags=FLAG_VIA, **fields):
    instance.send(request.address, payload, RESPONSE, tag=request.tag, flags=flags,
                  via=request.via, **fields)


@pytest.fixture
def name(identities):
    return f"{identities('x').name.split('/')[-2]}.echo"


@pytest.mark.parametrize("queues", (1, 2))
def test_request_and_response(house, federation, identities, name, queues):
    relay = house.get(queues, services={"policy": "round_robin", "slow_start": 1},
                      data={"workers": queues})
    peers = [Peer(identities(which), federation.trust, CONTROL_V4).connect()
             for which in ("client", "a", "b", "c")]
    client, instances = peers[0], peers[1:]
    for instance in instances:
        for _ in range(2):
            answer = register(instance, name, weight=2, region="eu", policy_version=3)
            assert answer == {"ok": True, "id": id_text(service_id(name))}
    counts = {}
    for number in range(12):
        payload = f"request {number}".encode()
        tag = client.send(service_id(name), payload, REQUEST)
        instance, message = asked(instances, tag)
        assert message.address == client.identity.id
        assert message.via == service_id(name)
        assert message.payload == payload
        counts[instance] = counts.get(instance, 0) + 1
        respond(instance, message, b"to " + payload)
        response = client.wait_tag(tag)
        assert (response.kind, response.payload) == (RESPONSE, b"to " + payload)
        assert response.address == instance.identity.id
        assert response.via == service_id(name)
    assert len(counts) == 3
    shown = services(relay)[name]
    assert len(shown["instances"]) == 3
    for instance in shown["instances"]:
        assert (instance["weight"], instance["region"]) == (2, "eu")
        assert instance["policy_version"] == 3
        assert instance["outstanding"] == 0
    assert sum(instance["answered"] for instance in shown["instances"]) == 12
    assert sum(policy["answered"] for policy in shown["policies"].values()) == 12
    for peer in peers:
        peer.leave()
        peer.close()
    assert name not in services(relay)
    relay.check()
    relay.ledger()


def test_who_ends_is_not_waited_for(relay, join, name):
    client, one, two = join("client"), join("one"), join("two")
    for instance in one, two:
        assert register(instance, name)["ok"]
    tags = [client.send(service_id(name), b"", REQUEST) for _ in range(8)]
    eventually(lambda: sum(instance["outstanding"] for instance in
                           services(relay)[name]["instances"]) == 8)
    eventually(lambda: [instance.poll(0.01) for instance in (one, two)]
               and len(one.inbox) + len(two.inbox) == 8)
    one.leave()
    refused = {tag for tag in tags if any(message.tag == tag for message in one.inbox)}
    assert 0 < len(refused) < 8
    for tag in refused:
        message = client.wait_tag(tag)
        assert message.kind & ERROR and message.reason == "instance_gone"
    for message in list(two.inbox):
        respond(two, message)
        assert client.wait_tag(message.tag).kind == RESPONSE
    # all further requests go to who is left; and without any, nobody is
    tag = client.send(service_id(name), b"", REQUEST)
    instance, message = asked([two], tag)
    respond(two, message)
    client.wait_tag(tag)
    assert two.control({"op": "unregister", "service": name})["ok"]
    assert two.control({"op": "unregister", "service": name})["ok"]
    tag = client.send(service_id(name), b"", REQUEST)
    assert client.wait_tag(tag).reason == "no_route"
    tag = client.send(service_id("owned"), b"", REQUEST)
    assert client.wait_tag(tag).reason == "no_instance"


def test_return_keeps_the_registration(relay, join, make_peer, name):
    client, before = join("client"), join("one")
    assert register(before, name)["ok"]
    lost = client.send(service_id(name), b"", REQUEST)
    asked([before], lost)
    after = join("one")
    message = client.wait_tag(lost)
    assert message.reason == "instance_gone"
    tag = client.send(service_id(name), b"", REQUEST)
    instance, message = asked([after], tag)
    respond(after, message)
    assert client.wait_tag(tag).kind == RESPONSE


def test_silent_instance(relay, join):
    """It doesn't even answer pings: its requests end, and it gets no more until it is heard."""
    client, silent, good = join("client"), join("silent"), join("good")
    silent.answer_pings = False
    for instance in silent, good:
        assert register(instance, "quick")["ok"]
    tags = {client.send(service_id("quick"), b"", REQUEST) for _ in range(8)}

    def ended():
        good.poll(0.005)
        while good.inbox:
            respond(good, good.inbox.pop())
        client.poll(0.005)
        return {message.tag for message in client.inbox} == tags
    eventually(ended)
    reasons = [message.reason for message in client.inbox]
    assert set(reasons) == {None, "instance_gone"}
    states = {instance["id"]: instance["state"] for instance in
              services(relay)["quick"]["instances"]}
    assert states[silent.identity.text] == "dead"
    for _ in range(4):
        tag = client.send(service_id("quick"), b"", REQUEST)
        respond(good, asked([good], tag)[1])
        client.wait_tag(tag)
    # heard again
    silent.answer_pings = True
    silent.ping_relay()
    eventually(lambda: [instance["state"] for instance in
                        services(relay)["quick"]["instances"]] == ["ready", "ready"])


def test_timeout(relay, join):
    """It answers pings, but not requests."""
    client, lazy = join("client"), join("lazy")
    assert register(lazy, "quick")["ok"]
    tag = client.send(service_id("quick"), b"", REQUEST)
    _, message = asked([lazy], tag)

    def refused():
        lazy.poll(0.01)
        client.poll(0.01)
        return [m for m in client.inbox if m.tag == tag]
    assert eventually(refused)[0].reason == "timeout"
    # too late
    before = relay.drops()
    respond(lazy, message)
    relay.expect_drops(before, messages={"unasked": 1})


def test_responses_that_nobody_asked_for(relay, join, name):
    client, one, other = join("client"), join("one"), join("other")
    for instance in one, other:
        assert register(instance, name)["ok"]
    tag = client.send(service_id(name), b"", REQUEST)
    asked_one, message = asked([one, other], tag)
    stranger = other if asked_one is one else one
    before = relay.drops()
    respond(stranger, message)                                     # somebody else's
    asked_one.send(client.identity.id, b"", RESPONSE, tag=tag + 1, flags=FLAG_VIA,
                   via=service_id(name))                           # never asked
    asked_one.send(client.identity.id, b"", RESPONSE, tag=tag, flags=FLAG_VIA,
                   via=service_id("owned"))                        # through another service
    asked_one.send(stranger.identity.id, b"", RESPONSE, tag=tag, flags=FLAG_VIA,
                   via=service_id(name))                           # to another peer
    relay.expect_drops(before, messages={"unasked": 4})
    respond(asked_one, message)
    assert client.wait_tag(tag).payload == b"done"
    before = relay.drops()
    respond(asked_one, message)                                    # twice
    relay.expect_drops(before, messages={"unasked": 1})
    # from peer to peer it is as ever
    stranger.send(client.identity.id, b"direct", RESPONSE, tag=77)
    assert client.wait_tag(77).payload == b"direct"


def test_failures_eject(relay, join):
    client, bad, good = join("client"), join("bad"), join("good")
    for instance in bad, good:
        assert register(instance, "quick")["ok"]

    def ejected():
        states = {instance["id"]: instance["state"]
                  for instance in services(relay)["quick"]["instances"]}
        return states[bad.identity.text] == "ejected"
    failures = 0
    while not ejected():
        tag = client.send(service_id("quick"), b"", REQUEST)
        instance, message = asked([bad, good], tag)
        failures += instance is bad
        respond(instance, message, flags=FLAG_VIA | (FLAG_FAILED if instance is bad else 0))
        assert bool(client.wait_tag(tag).flags & FLAG_FAILED) == (instance is bad)
    assert failures == 5
    # for a second
    tag = client.send(service_id("quick"), b"", REQUEST)
    instance, message = asked([bad, good], tag)
    assert instance is good or not ejected()


def test_names(relay, join):
    peer = join("one")
    refusals = {
        "": "name", "a" * 65: "name", "UPPER": "name", "with space": "name", ".dot": "name",
        "viaduct": "reserved", "relay.status": "reserved", "owned": "taken"}
    for name, code in refusals.items():
        answer = register(peer, name)
        assert (answer["ok"], answer["error"]) == (False, code), name
    assert register(peer, "a" * 256)["error"] == "malformed"
    assert register(peer, 7)["error"] == "malformed"
    for weight in 0, -1, 1001, 10**15:
        assert register(peer, "a-name", weight=weight)["error"] == "weight"
    for weight in 1.5, "1", None:
        assert register(peer, "a-name", weight=weight)["error"] == "malformed"
    assert register(peer, "a-name", policy_version=-1)["error"] == "malformed"
    assert register(peer, "a-name", region="No Region")["error"] == "name"
    assert "a-name" not in services(relay)


def test_someone_elses_name(relay, federation, join, make_peer, name):
    one = join("one")
    assert register(one, name)["ok"]
    stranger = make_peer(federation.peer("stranger", "elsewhere")).connect()
    assert register(stranger, name)["error"] == "taken"
    owner = make_peer(federation.peer("owner", "owners")).connect()
    assert register(owner, "owned")["ok"]
    assert register(owner, name)["error"] == "taken"
    # when nobody is left, it is whose who comes first
    one.leave()
    assert register(stranger, name)["ok"]


def test_too_many_names(relay, join, neighbours):
    peer = join("greedy")
    for number in range(16):
        assert register(peer, f"greedy.{number}")["ok"]
    answer = register(peer, "greedy.16")
    assert (answer["ok"], answer["error"]) == (False, "limit")
    assert register(peer, "greedy.15")["ok"]
    peer.control({"op": "unregister", "service": "greedy.3"})
    assert register(peer, "greedy.16")["ok"]
    # in and out, over and over: slots come back
    for number in range(300):
        assert register(peer, f"greedy.x{number}")["error"] == "limit"
        peer.control({"op": "unregister", "service": "greedy.16"})
        assert register(peer, "greedy.16")["ok"]


def test_sticky_keys(relay, join, name):
    client, instances = join("client"), [join(which) for which in ("a", "b", "c")]
    for instance in instances:
        assert register(instance, name)["ok"]
    for key in b"somebody", b"someone!", b"\0" * 8:
        seen = set()
        for _ in range(6):
            tag = client.send(service_id(name), key + b"rest", REQUEST, flags=FLAG_KEY)
            instance, message = asked(instances, tag)
            assert message.payload == b"rest"
            assert message.flags == FLAG_VIA
            seen.add(instance)
            respond(instance, message)
            client.wait_tag(tag)
        assert len(seen) == 1
    # one key of everybody's doesn't bury one instance
    tags = [client.send(service_id(name), b"somebody", REQUEST, flags=FLAG_KEY)
            for _ in range(60)]
    owed = eventually(lambda: (lambda all_: all_ if sum(all_) == 60 else None)(
        [instance["outstanding"] for instance in services(relay)[name]["instances"]]))
    assert max(owed) <= 60 / 3 * 1.25 + 1
    assert len(tags) == 60
    # to a peer a key means nothing, and less than a key is no key
    before = relay.drops()
    tag = client.send(instances[0].identity.id, b"somebody", SEND, flags=FLAG_KEY)
    assert client.wait_tag(tag).reason == "unsupported"
    client.send(service_id(name), b"some", REQUEST, flags=FLAG_KEY)
    relay.expect_drops(before, records={"malformed": 1}, messages={"unsupported": 1})


def test_policy_while_it_runs(relay, join, name):
    client, instances = join("client"), [join(which) for which in ("a", "b")]
    for instance, weight in zip(instances, (3, 1)):
        assert register(instance, name, weight=weight)["ok"]

    def shares(count):
        counts = [0, 0]
        for _ in range(count):
            tag = client.send(service_id(name), b"", REQUEST)
            instance, message = asked(instances, tag)
            counts[instances.index(instance)] += 1
            respond(instance, message)
            client.wait_tag(tag)
        return counts
    answer = relay.admin({"cmd": "service", "name": name, "policy": "weighted", "slow_start": 1})
    assert answer["ok"] and answer["settings"]["policy"] == "weighted"
    assert shares(16) == [12, 4]
    assert relay.admin({"cmd": "service", "name": name, "policy": "round_robin"})["ok"]
    assert shares(8) == [4, 4]
    # two at once, reported apart
    assert relay.admin({"cmd": "service", "name": name, "second": "response_time",
                        "share": 50})["ok"]
    shares(40)
    policies = services(relay)[name]["policies"]
    assert policies["response_time"]["answered"] + policies["round_robin"]["answered"] == 48
    assert 5 <= policies["response_time"]["answered"] <= 35
    assert policies["response_time"]["p99_us"] > 0
    # what makes no sense
    done = relay.viaduct("service", name, "--policy", "best")
    assert done.returncode == 1 and "round_robin" in done.stderr
    for wrong in ({"share": 101}, {"timeout": 0}, {"eject": "x"}):
        assert not relay.admin({"cmd": "service", "name": name, **wrong})["ok"]
    assert not relay.admin({"cmd": "service", "name": "nobodys"})["ok"]


def test_region_of_who_asks(relay, join, name):
    client, instances = join("client"), [join(which) for which in ("far", "near")]
    for instance, region in zip(instances, ("us", "eu")):
        assert register(instance, name, region=region)["ok"]
    assert client.control({"op": "region", "region": "eu"})["ok"]
    assert client.control({"op": "region", "region": "Eu"})["error"] == "name"
    assert relay.admin({"cmd": "service", "name": name, "policy": "proximity",
                        "slow_start": 1})["ok"]
    for _ in range(10):
        tag = client.send(service_id(name), b"", REQUEST)
        instance, message = asked(instances, tag)
        assert instance is instances[1]
        respond(instance, message)
        client.wait_tag(tag)
    instances[1].leave()
    tag = client.send(service_id(name), b"", REQUEST)
    assert asked(instances[:1], tag)


def test_killed_in_mid_flight_nothing_is_lost(relay, join, name):
    """Each of many requests ends in a response or an error, though instances go while they run."""
    client, instances = join("client"), [join(f"i{number}") for number in range(4)]
    for instance in instances:
        assert register(instance, name)["ok"]
    tags = [client.send(service_id(name), b"", REQUEST) for _ in range(200)]
    for instance in instances[:2]:
        instance.leave()

    def ended():
        for instance in instances[2:]:
            instance.poll(0.001)
            while instance.inbox:
                respond(instance, instance.inbox.pop())
        client.poll(0.001)
        return {message.tag for message in client.inbox} == set(tags)
    eventually(ended)
    assert len(client.inbox) == len(tags)
    kinds = [message.kind if message.kind == RESPONSE else message.reason
             for message in client.inbox]
    assert set(kinds) <= {RESPONSE, "instance_gone"}
