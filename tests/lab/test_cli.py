"""The viaduct command, with the independent peer at the other end."""

import json
import os
import signal
import subprocess

import pytest

from federation import Federation
from netns import PEERS_INTERFACE, run
from peer import BULK, FLAG_VIA, REQUEST, RESPONSE, SEND, Identity, Peer
from relay import CONTROL_V4, CONTROL_V6, PATIENCE, PORT, VIADUCT, eventually

COMMANDS = ["ping", "send", "listen", "request", "reply", "watch", "status", "peers", "routes", "drops",
            "cert"]


class Tool:
    """Runs viaduct as one peer."""

    def __init__(self, trust, identity, admin_socket):
        self.identity = identity
        self.environment = {
            **os.environ, "VIADUCT_RELAY": "{}:{}".format(*CONTROL_V4), "VIADUCT_CA": trust,
            "VIADUCT_CERT": identity.certificate, "VIADUCT_KEY": identity.key,
            "VIADUCT_ADMIN": admin_socket}

    def run(self, *arguments, status=0, text=None):
        done = subprocess.run((VIADUCT, *arguments), input=text, capture_output=True, text=True,
                              env=self.environment, timeout=2 * PATIENCE)
        assert done.returncode == status, done
        return done

    def json(self, *arguments, status=0, text=None):
        """The objects that it prints, one a line."""
        done = self.run(*arguments, "--json", status=status, text=text)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, *arguments):
        """Starts it in the background, and waits until it says who it is."""
        process = subprocess.Popen((VIADUCT, *arguments), env=self.environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.identity.text in process.stderr.readline()
        return process


def finish(process, status=0):
    output, errors = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == status, errors
    return output


@pytest.fixture
def tool(relay, federation, identities):
    return Tool(federation.trust, identities("tool"), relay.admin_socket)


@pytest.fixture
def bob(join):
    return join("bob")


def test_ping_relay(tool):
    assert "3 received" in tool.run("ping", "relay", "-c", "3", "-i", "0.02").stdout
    *pongs, summary = tool.json("ping", "relay", "-c", "2", "-i", "0.02")
    assert [pong["seq"] for pong in pongs] == [1, 2]
    assert (summary["sent"], summary["received"], summary["lost"]) == (2, 2, 0)
    assert summary["rtt_us"]["min"] > 0


def test_ping_over_ipv6(tool):
    tool.run("ping", "relay", "-c", "1", "--relay", "[{}]:{}".format(*CONTROL_V6))


def test_ping_peer(tool, bob):
    process = subprocess.Popen((VIADUCT, "ping", bob.identity.text, "-c", "2", "-i", "0.05"),
                               env=tool.environment, stdout=subprocess.PIPE, text=True)
    eventually(lambda: bob.poll(0.02) or process.poll() is not None)
    assert "2 received" in finish(process)


def test_ping_nobody(tool):
    tool.run("ping", "nobody", "-c", "1", status=1)
    summary = tool.json("ping", "a" * 26, "-c", "1", status=1)[-1]
    assert summary["received"] == 0


@pytest.mark.parametrize("form", ["id", "name", "short", "cluster"])
def test_send(tool, bob, form):
    name = bob.identity.name
    to = {"id": bob.identity.text, "name": name, "short": "bob",
          "cluster": "/".join(name.split("/")[3:])}[form]
    assert tool.run("send", to, "hello, bob").stdout == ""
    message = bob.wait(lambda message: message.kind == SEND)
    assert (message.payload, message.address) == (b"hello, bob", tool.identity.id)


def test_send_lines(tool, bob):
    lines = [f"line {number}" for number in range(500)]
    assert tool.json("send", "bob", "-", "--class", "bulk", text="\n".join(lines)) == [
        {"sent": 500, "refused": 0}]
    eventually(lambda: bob.poll(0.01) or len(bob.inbox) == 500)
    assert sorted(message.payload.decode() for message in bob.inbox) == sorted(lines)
    assert {message.record.klass for message in bob.inbox} == {BULK}


def test_send_to_nobody(tool):
    assert "nobody" in tool.run("send", "nobody", "hello", status=1).stderr
    refusal = tool.json("send", "a" * 26, "hello", status=1)[0]
    assert refusal["reason"] == "no_route"


def test_listen(tool, bob):
    listener = tool.start("listen", "--count", "3", "--json")
    bob.send(tool.identity.id, b"text")
    bob.send(tool.identity.id, b"\xff\x00", kind=REQUEST)
    bob.send(tool.identity.id, "Grüße".encode(), klass=BULK)
    got = [json.loads(line) for line in finish(listener).splitlines()]
    assert [message["kind"] for message in got] == ["send", "request", "send"]
    assert {message["from"] for message in got} == {bob.identity.text}
    assert [message.get("text", message.get("hex")) for message in got] == [
        "text", "ff00", "Grüße"]
    assert [message["class"] for message in got] == ["normal", "normal", "bulk"]


def test_listen_ends_on_signal(relay, tool):
    for number in signal.SIGINT, signal.SIGTERM:
        listener = tool.start("listen")
        listener.send_signal(number)
        finish(listener)
        eventually(lambda: tool.identity.text not in relay.peers(), message="it didn't leave")


def test_listen_joins_again(relay, tool, make_peer):
    """When the relay was away, it is back by itself: at the latest after the longest back-off."""
    listener = tool.start("listen", "--count", "1")
    relay.stop()
    relay.start()
    try:
        eventually(lambda: relay.peers().get(tool.identity.text, {}).get("state") == "joined", 40)
    except AssertionError:
        listener.kill()
        raise AssertionError(listener.communicate()) from None
    make_peer("late").connect().send(tool.identity.id, b"welcome back")
    assert "welcome back" in finish(listener)


def test_request(tool, bob):
    process = subprocess.Popen((VIADUCT, "request", "bob", "2 + 2"), env=tool.environment,
                               stdout=subprocess.PIPE, text=True)
    request = bob.wait(lambda message: message.kind == REQUEST)
    assert request.payload == b"2 + 2"
    bob.send(request.address, b"4", kind=RESPONSE, tag=request.tag)
    assert finish(process).strip() == "4"


def test_request_without_response(tool, bob):
    answer = tool.json("request", "bob", "anybody?", "--timeout", "0.3", status=1)[0]
    assert answer["error"]


@pytest.mark.parametrize("arguments, response", [
    (("--echo",), b"Hello"), (("--exec", "tr a-z A-Z"), b"HELLO")])
def test_reply(tool, bob, arguments, response):
    replier = tool.start("reply", "--count", "1", *arguments)
    tag = bob.send(tool.identity.id, b"Hello", kind=REQUEST)
    assert bob.wait_tag(tag).payload == response
    finish(replier)


def test_reply_that_fails(tool, bob):
    replier = tool.start("reply", "--exec", "exit 1")
    bob.send(tool.identity.id, b"Hello", kind=REQUEST)
    tag = bob.send(bob.identity.id)
    bob.wait_tag(tag)
    replier.send_signal(signal.SIGINT)
    finish(replier)
    bob.poll(0)
    assert bob.inbox == []


def test_both_ends(tool, relay, federation, identities):
    """The library at both ends, and nothing of Python's."""
    other = Tool(federation.trust, identities("other"), relay.admin_socket)
    replier = other.start("reply", "--echo", "--count", "1")
    assert tool.run("request", "other", "are you there?").stdout.strip() == "are you there?"
    finish(replier)


def test_service(tool, relay, federation, identities):
    """Somebody stands behind a name, is asked through it, and is set another policy."""
    name = f"{identities('carol').name.split('/')[-2]}.echo"
    other = Tool(federation.trust, identities("carol"), relay.admin_socket)
    replier = other.start("reply", "--service", name, "--weight", "3", "--count", "1")
    eventually(lambda: name in tool.run("services").stdout)
    assert "round_robin" in tool.run("service", name, "--policy", "round_robin").stdout
    tool.run("service", name, "--policy", "best", status=1)
    shown = {service["name"]: service for service in tool.json("services")[0]["services"]}[name]
    assert shown["settings"]["policy"] == "round_robin"
    assert shown["instances"][0]["weight"] == 3
    assert tool.run("request", f"service:{name}", "hello").stdout.strip() == "hello"
    finish(replier)
    tool.run("request", f"service:{name}", "hello", status=1)


def test_sticky_request(tool, join, identities):
    """Those of a key are all asked of the same instance, which sees nothing of it."""
    instances = [join("left"), join("right")]
    name = f"{identities('carol').name.split('/')[-2]}.sticky"
    for instance in instances:
        assert instance.control({"op": "register", "service": name})["ok"]

    def asked(*options):
        """The instance that the tool asks."""
        process = subprocess.Popen((VIADUCT, "request", f"service:{name}", "which?", *options),
                                   env=tool.environment, stdout=subprocess.PIPE, text=True)
        number, request = eventually(lambda: next(
            ((number, instance.inbox.pop()) for number, instance in enumerate(instances)
             if instance.poll(0.01)), None))
        assert request.payload == b"which?"
        instances[number].send(request.address, str(number).encode(), RESPONSE, tag=request.tag,
                               flags=FLAG_VIA, via=request.via)
        assert finish(process).strip() == str(number)
        return number
    keys = ["0", "7", str(2 ** 64 - 1)] + [str(key) for key in range(100, 108)]
    chosen = {key: asked("--sticky", key) for key in keys}
    assert {key: asked("--sticky", key) for key in reversed(keys)} == chosen
    assert set(chosen.values()) == {0, 1}
    for nonsense in "", "-1", "carts", "7x", str(2 ** 64):
        tool.run("request", f"service:{name}", "which?", "--sticky", nonsense, status=2)
    assert "unsupported" in tool.run("request", instances[0].identity.text, "which?", "--sticky",
                                     "7", status=1).stderr


def test_data_port_unreachable(tool):
    """UDP to the data port is dropped on the way: it says so, soon."""
    run("nft", "add", "table", "inet", "unreachable")
    try:
        run("nft", "add", "chain", "inet", "unreachable", "in",
            "{ type filter hook input priority 0; }")
        run("nft", "add", "rule", "inet", "unreachable", "in", "iifname", PEERS_INTERFACE,
            "udp", "sport", str(PORT), "drop")
        said = tool.run("ping", "relay", "-c", "1", status=3).stderr
    finally:
        run("nft", "delete", "table", "inet", "unreachable")
    assert "data port" in said
    tool.run("ping", "relay", "-c", "1")


def test_relay_that_is_not_there(tool):
    said = tool.run("ping", "relay", "--relay", "10.77.0.1:1", status=3).stderr
    assert "10.77.0.1:1" in said
    assert tool.json("send", "bob", "x", "--relay", "10.77.0.1:1", status=3)[0]["error"]


def test_wrong_certificate(tool, tmp_path):
    foreign = Federation(tmp_path / "foreign", name="CA of nobody")
    tool.environment["VIADUCT_CA"] = foreign.trust
    assert "certificate" in tool.run("ping", "relay", "-c", "1", status=3).stderr
    tool.environment["VIADUCT_CA"] = str(tmp_path / "none.pem")
    assert "none.pem" in tool.run("ping", "relay", "-c", "1", status=1).stderr


def test_status(relay, tool, bob):
    answer, = tool.json("status")
    assert answer["pid"] == relay.process.pid
    assert answer["name"] in tool.run("status").stdout
    assert answer.keys() == relay.admin("status").keys()


def test_peers_and_routes(tool, bob):
    peers, = tool.json("peers")
    assert bob.identity.text in [peer["id"] for peer in peers["peers"]]
    assert bob.identity.name in tool.run("peers").stdout
    routes, = tool.json("routes")
    assert bob.identity.text in [route["id"] for route in routes["routes"]]
    assert bob.identity.text in tool.run("routes").stdout


def test_drops(relay, tool, bob):
    bob.wait_tag(bob.send(bytes(16)))
    ledger = relay.ledger()
    answer, = tool.json("drops")
    assert answer["records"] == ledger.records
    assert answer["messages"] == ledger.messages
    assert "no_route" in tool.run("drops").stdout


def test_admin_socket_that_is_not_there(tool, tmp_path):
    for command in "status", "peers", "routes", "drops":
        said = tool.run(command, "--socket", str(tmp_path / "none"), status=3).stderr
        assert str(tmp_path / "none") in said


def test_help(tool):
    everything = tool.run("--help").stdout
    for command in COMMANDS:
        assert command in everything
        words = tool.run(command, "--help").stdout
        assert f"viaduct {command}" in words
        assert max(map(len, words.splitlines())) <= 100
    assert tool.run("--version").stdout.startswith("viaduct ")


@pytest.mark.parametrize("arguments", [
    (), ("fly",), ("ping",), ("send",), ("request", "bob"), ("ping", "relay", "-c", "many"),
    ("ping", "relay", "-c", "-1"), ("send", "bob", "x", "--class", "royal"),
    ("status", "extra"), ("listen", "--fly"), ("cert",),
    ("listen", "--relay", "nonsense"), ("ping", "relay", "--relay", "host:99999"), ("cert", "fly")], ids=" ".join)
def test_wrong_usage(tool, arguments):
    assert tool.run(*arguments, status=2).stderr.startswith("viaduct")


@pytest.fixture
def maker(federation):
    """The command, where there is no relay."""
    return Tool(federation.trust, federation.peer("maker"), "/none")


@pytest.fixture
def pki(maker, tmp_path):
    """A federation as people make it."""
    directory = str(tmp_path / "pki")
    maker.run("cert", "init", directory, "--federation", "lab")
    maker.run("cert", "issue", directory, "relay", "--relay")
    maker.run("cert", "issue", directory, "carol", "--cluster", "people")
    return directory


def identity(directory, name):
    return Identity(os.path.join(directory, f"{name}.pem"), os.path.join(directory, f"{name}.key"))


def test_cert(pki, maker):
    assert identity(pki, "carol").name == "spiffe://lab/people/carol"
    assert identity(pki, "relay").name == "spiffe://lab/relay/relay"
    for name in "ca", "relay", "carol":
        assert os.stat(os.path.join(pki, f"{name}.key")).st_mode & 0o077 == 0
    before = identity(pki, "carol").text
    maker.run("cert", "issue", pki, "carol", status=1)
    assert identity(pki, "carol").text == before, "it is not overwritten"
    maker.run("cert", "issue", pki, "--count", "3", "--prefix", "dev-")
    assert {identity(pki, f"dev-{number}").name for number in (1, 2, 3)} == {
        f"spiffe://lab/default/dev-{number}" for number in (1, 2, 3)}
    subprocess.run(("openssl", "verify", "-x509_strict", "-CAfile", f"{pki}/ca.pem",
                    f"{pki}/carol.pem", f"{pki}/relay.pem"), check=True, capture_output=True)


def test_a_relay_with_such_certificates(pki, make_relay, maker):
    make_relay(tls={"certificate": f"{pki}/relay.pem", "key": f"{pki}/relay.key",
                    "ca": f"{pki}/ca.pem"}).start()
    with Peer(identity(pki, "carol"), f"{pki}/ca.pem", CONTROL_V4).connect() as carol:
        maker.run("cert", "issue", pki, "dave")
        maker.environment |= {"VIADUCT_CA": f"{pki}/ca.pem", "VIADUCT_CERT": f"{pki}/dave.pem",
                              "VIADUCT_KEY": f"{pki}/dave.key"}
        maker.run("send", "people/carol", "hi")
        carol.wait(lambda message: message.payload == b"hi")
