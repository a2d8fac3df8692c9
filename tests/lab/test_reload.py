"""Changes while it runs: all of them or nothing, and no message lost."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from conftest import Neighbours
from netns import RELAY_INTERFACE
from peer import HELLO, PING, Connection
from relay import CONTROL_V4, VIADUCT, eventually

RELOADS = 20


@pytest.fixture
def session():
    """That section, for tests to parametrize."""
    return {}


@pytest.fixture
def relay(make_relay, session, federation, tmp_path):
    """With copies of its certificate and key, to be changed."""
    for name, path in ("cert", federation.relay.certificate), ("key", federation.relay.key):
        shutil.copy(path, tmp_path / name)
    return make_relay(tls={"certificate": "cert", "key": "key"}, session=session).start()


class Rekeying(Neighbours):
    """Neighbours who rekey when they are told to."""

    def __init__(self, *pair, **options):
        super().__init__(*pair, **options)
        self.due = []

    def _exchange(self, pause):
        super()._exchange(pause)
        while self.due:
            self.due[0].rekey()
            self.due.pop(0)


@pytest.fixture
def identities(federation):
    """All of one cluster, so that there can be rules about it."""
    return lambda name: federation.peer(name, "reload")


@pytest.fixture
def peers(join):
    """Two who talk all the time, as fast as they can."""
    thread = Rekeying(join("alice"), join("bob"), pause=0.001)
    thread.start()
    yield thread
    thread.finish()


def replace(relay, name, data):
    path = os.path.join(relay.directory, name)
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


def renew(relay, federation, serial, another_key=False):
    """Another certificate, for the same key or another one."""
    with open(os.path.join(relay.directory, "key"), "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    if another_key:
        key = ec.generate_private_key(ec.SECP256R1())
        replace(relay, "key", key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))
    old = federation.relay.x509
    builder = federation._builder(old.subject, key.public_key(), 0)
    builder._serial_number = serial
    for extension in old.extensions:
        if extension.oid != x509.AuthorityKeyIdentifier.oid:
            builder = builder.add_extension(extension.value, extension.critical)
    replace(relay, "cert", builder.sign(federation.key, hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM))


def served(federation, identities):
    """The serial number of the certificate that newcomers see."""
    connection = Connection(identities("viewer"), federation.trust, CONTROL_V4)
    serial = connection.tls.get_peer_certificate().get_serial_number()
    connection.abandon()
    return serial


def policy(number):
    """Rules that say something else each time, and that let the neighbours talk."""
    return [{"from": "reload", "to": [f"other{number % 3}"]},
            {"from": f"other{number}", "to": ["reload"] if number % 2 else []}]


def test_nothing_is_lost(relay, federation, peers, join, identities):
    """A new certificate, a new policy and new limits, and now and then a new key."""
    for number in range(1, RELOADS + 1):
        renew(relay, federation, number, another_key=number % 8 == 0)
        relay.configure(
            limits={"handshakes": 100 + number, "hello_size": 4096 - number,
                    "source_handshakes": 300 - number, "tls_timeout": 10 + number % 5},
            session={"keepalive": 1 + number, "expiry": 30 + number},
            policy={"rules": policy(number)}, log={"level": ("debug", "info")[number % 2]})
        begin = relay.log_size()
        if number % 2:
            relay.process.send_signal(signal.SIGHUP)
            eventually(lambda: "msg=reloaded" in relay.log(begin))
        else:
            answer = relay.admin("reload")
            assert answer["ok"] and answer["applied"]
            assert {"setting": "limits.handshakes", "from": str(99 + number),
                    "to": str(100 + number), "live": True} in answer["changes"]
        assert served(federation, identities) == number
        sent = peers.sent
        eventually(lambda: peers.sent > sent + 20)
        if number == RELOADS // 2:
            rekey(peers, [0, 1])
    newcomer = join("carol")
    assert newcomer.welcome["keepalive"] == 1 + RELOADS
    newcomer.leave()
    # who was there keeps what it was told when it joined or rekeyed
    assert peers.pair[0].welcome["keepalive"] == 1 + RELOADS // 2


def test_dry_run(relay, federation, peers):
    relay.configure(session={"keepalive": 7})
    done = relay.viaduct("reload", "--dry-run")
    assert done.returncode == 0
    assert done.stdout == "session.keepalive: 10 -> 7\nnot applied\n"
    assert relay.admin({"cmd": "reload", "dry_run": True})["applied"] is False
    assert relay.viaduct("reload").stdout == "session.keepalive: 10 -> 7\napplied\n"
    assert relay.viaduct("reload").stdout.startswith("no setting has changed")
    renew(relay, federation, 77)
    until = r"valid until 2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(f"relay certificate: {until} -> {until}\nnot applied\n",
                        relay.viaduct("reload", "--dry-run").stdout)


def unchanged(relay, error):
    done = relay.viaduct("reload")
    assert done.returncode == 1 and error in done.stderr, done.stderr
    begin = relay.log_size()
    relay.process.send_signal(signal.SIGHUP)
    eventually(lambda: "nothing reloaded" in relay.log(begin))


def test_what_needs_a_restart(relay, federation, peers):
    relay.configure(data={"port": 7741, "interface": "lo"}, session={"keepalive": 7})
    unchanged(relay, "data.interface, data.port: can't be changed without a restart")
    relay.configure(data={"port": 7740, "interface": RELAY_INTERFACE})
    changes = relay.admin({"cmd": "reload", "dry_run": True})["changes"]
    assert [change["setting"] for change in changes] == ["session.keepalive"]
    other = federation.__class__(relay.directory + "/elsewhere", domain="elsewhere")
    relay.configure(tls={"certificate": other.relay.certificate, "key": other.relay.key,
                        "ca": other.trust})
    unchanged(relay, "is of another federation; that needs a restart")


def rekey(peers, which):
    """Lets these of the neighbours rekey, in their own thread."""
    peers.due.extend(peers.pair[i] for i in which)
    eventually(lambda: not peers.due)


def test_another_key(relay, federation, peers, join, make_peer, identities):
    """New peers see another relay; old ones go on, and get its new id in their keys by a rekey."""
    alice, bob = peers.pair
    carol = join("carol")
    dave = make_peer("dave").join()
    begun = Connection(identities("erin"), federation.trust, CONTROL_V4)
    other = federation.issue("other-relay", uris=["spiffe://lab/relay/one"],
                             usages=[x509.ExtendedKeyUsageOID.SERVER_AUTH])
    relay.configure(tls={"certificate": other.certificate, "key": other.key})
    changes = relay.admin({"cmd": "reload", "dry_run": True})["changes"]
    assert {"setting": "relay id", "from": federation.relay.text, "to": other.text,
            "live": True} in changes
    assert relay.viaduct("reload").returncode == 0
    assert relay.admin("status")["id"] == other.text

    # who has shaken hands with the old one, is welcomed by that, and stays with it
    assert begun.ask(HELLO)["relay"] == federation.relay.text
    begun.close()
    assert carol.control({"op": "resolve", "name": alice.identity.name})["ok"]
    tag = carol.send(carol.relay, kind=PING)
    assert carol.wait_tag(tag).address == carol.relay == federation.relay.id
    tag = carol.send(bytes(16))
    assert carol.wait_tag(tag).address == carol.relay
    dave.reach()
    assert dave.control({"op": "leave"})["ok"]

    # a rekey takes the new key in, by a full handshake, and changes nothing else
    rekey(peers, [0])
    assert not alice.resumed and alice.epoch.number == 1
    assert alice.welcome["relay"] == other.text
    sent = peers.sent
    eventually(lambda: peers.sent > sent + 20)
    carol.rekey()
    assert carol.control({"op": "relays"})["ok"]
    tag = carol.send(carol.relay, kind=PING)
    assert carol.wait_tag(tag).address == federation.relay.id

    # and who returns sees the new one only
    carol.connect()
    assert carol.relay == other.id and carol.welcome["relay"] == other.text
    tag = carol.send(carol.relay, kind=PING)
    assert carol.wait_tag(tag).address == other.id
    tag = carol.send(federation.relay.id)
    assert carol.wait_tag(tag).reason == "no_route"
    carol.leave()
    carol.connect()
    assert carol.resumed
    carol.leave()
    rekey(peers, [1])
    assert bob.epoch.number == 1


@pytest.mark.parametrize("session", [{"rekey": 1}])
def test_libviaduct_and_another_key(relay, federation, peers):
    """The library's peers rekey with the relay's new key, and lose nothing."""
    listener = federation.peer("listener", "reload")
    with subprocess.Popen(
            [VIADUCT, "listen", "--relay", "%s:%d" % CONTROL_V4, "--ca", federation.trust,
             "--cert", listener.certificate, "--key", listener.key, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            def epoch():
                return relay.peers().get(listener.text, {"epoch": -1})["epoch"]
            eventually(lambda: epoch() >= 0)
            other = federation.issue("other-relay", uris=["spiffe://lab/relay/one"],
                                     usages=[x509.ExtendedKeyUsageOID.SERVER_AUTH])
            relay.configure(tls={"certificate": other.certificate, "key": other.key})
            before = epoch()
            relay.reload()
            eventually(lambda: epoch() > before + 1)
            assert relay.admin("status")["handshakes"]["refused"] == 0
        finally:
            process.terminate()
        assert "no rekey" not in process.stdout.read()


def test_limits_hold_for_who_begins_later(relay, federation, identities):
    """Not for a hello that is longer already than the new limit allows."""
    relay.reload(limits={"hello_timeout": 60})
    connection = Connection(identities("carol"), federation.trust, CONTROL_V4)
    connection.tls.sendall(b'{"viaduct": 1,' + b" " * 1000)
    eventually(lambda: relay.admin("status")["handshakes"]["open"] == 1)
    relay.configure(limits={"hello_size": 256, "hello_timeout": 30})
    assert relay.viaduct("reload", "--dry-run").stdout == (
        "limits.hello_timeout: 60 -> 30\nlimits.hello_size: 4096 -> 256\nnot applied\n")
    relay.reload()
    assert "index" in connection.ask(b'"ciphers": ["aes-256-gcm"]}\n')
    connection.close()
    connection = Connection(identities("dave"), federation.trust, CONTROL_V4)
    assert connection.ask(b" " * 256)["error"] == "too_long"
    connection.close()
    relay.configure(session={"max": 5000})
    unchanged(relay, "session.max: can't be changed without a restart")


def test_bad_files_change_nothing(relay, federation, peers, tmp_path, make_peer, identities):
    serial = served(federation, identities)
    good = open(relay.file).read()
    relay.configure(session={"keepalive": 7})
    wanted = open(relay.file).read()

    half = wanted[:wanted.index("interface") + len("interf")]
    for text, error in (wanted + "log:\n", "viaductd.yaml:"), (half, "viaductd.yaml:"), ("", "empty"):
        (tmp_path / "viaductd.yaml").write_text(text)
        unchanged(relay, error)
    os.remove(relay.file)
    unchanged(relay, "No such file")
    (tmp_path / "viaductd.yaml").write_text(wanted)

    certificate = (tmp_path / "cert").read_bytes()
    for broken in b"", certificate[:300], open(federation.trust, "rb").read():
        (tmp_path / "cert").write_bytes(broken)
        unchanged(relay, "tls.")
    (tmp_path / "cert").unlink()
    unchanged(relay, "tls.certificate")
    (tmp_path / "cert").write_bytes(certificate)
    relay.configure(trust={"crl": "nowhere"})
    unchanged(relay, "trust.crl")
    assert served(federation, identities) == serial
    assert make_peer("carol").join().welcome["keepalive"] == 10
    (tmp_path / "viaductd.yaml").write_text(good)
    assert relay.viaduct("reload").returncode == 0


def test_files_that_come_and_go(relay, federation, peers, identities):
    """Of the configuration and what it names, all is taken over, or nothing of it."""
    over = threading.Event()

    def come_and_go():
        while not over.is_set():
            for name in "viaductd.yaml", "cert", "key":
                path = os.path.join(relay.directory, name)
                os.rename(path, path + ".away")
                time.sleep(0.002)
                os.rename(path + ".away", path)
                time.sleep(0.002)
    thread = threading.Thread(target=come_and_go)
    before = served(federation, identities)
    results = set()
    applied = 0
    thread.start()
    try:
        while not {True, False} <= results or applied < 20:
            answer = relay.admin("reload")
            results.add(answer["ok"])
            applied += answer["ok"]
            assert answer["ok"] or "No such file or directory" in answer["error"] or (
                "tls." in answer["error"]), answer
    finally:
        over.set()
        thread.join()
    assert served(federation, identities) == before
    assert relay.admin("reload") == {"ok": True, "applied": True, "changes": []}


def test_trust_is_enforced(relay, peers, tmp_path, join):
    """A reload throws out whom it no longer trusts, and no one else."""
    pinned = {"setting": "pinned peers", "from": "0", "to": "2", "live": True}
    mallory = join("mallory")
    (tmp_path / "pins").write_text("\n".join(peer.identity.text for peer in peers.pair))
    relay.configure(trust={"pins_file": "pins"})
    assert pinned in relay.admin({"cmd": "reload", "dry_run": True})["changes"]
    assert relay.admin("reload")["ok"]
    mallory.wait_event("revoked")
    assert mallory.identity.text not in relay.peers()
    with pytest.raises(SSL.Error):
        mallory.connect()
    (tmp_path / "pins").write_text("nonsense")
    unchanged(relay, "pins:1: this is not a peer's id")
    with pytest.raises(SSL.Error):
        mallory.connect()
    relay.reload(trust={"pins_file": None})
    mallory.connect().leave()


def test_tickets_end_with_their_ca(relay, federation, tmp_path, join):
    alice = join("alice")
    alice.leave()
    assert alice.connect().resumed
    alice.leave()
    relay.reload()
    assert alice.connect().resumed
    alice.leave()
    other = federation.__class__(tmp_path / "other")
    both = open(federation.trust).read() + open(other.trust).read()
    (tmp_path / "both").write_text(both)
    relay.reload(tls={"ca": "both"})
    assert not alice.connect().resumed
    alice.leave()
