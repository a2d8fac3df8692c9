"""Pins, revocation by a CRL and by an operator: who is thrown out, and stays out."""

import datetime
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL

from peer import PING, Peer
from relay import BUILD, CONTROL_V4, PATIENCE, VIADUCT, VIADUCTD, eventually

DISK = os.path.join(BUILD, "tests", "disk", "disk.so")
REVOKED = "revoked"
BURST = 32  # records that a worker looks at, at most, before it looks at the tables again


def revocation_file(relay):
    return os.path.join(relay.directory, REVOKED)


def refused(peer):
    with pytest.raises((SSL.Error, SSL.SysCallError)) as error:
        peer.connect()
    return str(error.value)


@pytest.fixture
def revocations(relay):
    """Whoever a test revokes may come back afterwards."""
    yield
    for peer in relay.admin("revoke")["revoked"]:
        relay.admin({"cmd": "revoke", "peer": peer, "undo": True})


@pytest.mark.relay(trust={"revoked": REVOKED})
def test_revoke(relay, join, neighbours, revocations):
    alice, bob = join("alice"), join("bob")
    before = relay.drops()
    begin, start = relay.log_size(), time.monotonic()
    done = relay.viaduct("revoke", alice.identity.name)
    assert done.returncode == 0 and alice.identity.text in done.stdout
    # at once, and so within the second that there is
    assert alice.identity.text not in relay.peers()
    assert alice.identity.text not in [route["id"] for route in relay.admin("routes")["routes"]]
    assert bob.wait_tag(bob.send(alice.identity.id)).reason == "no_route"
    sent = 0
    while time.monotonic() < start + 1.5:  # beyond the last session's end
        alice.send(bob.identity.id)
        sent += 1
        time.sleep(0.02)
    relay.expect_drops(before, records={"revoked": sent}, messages={"no_route": 1})
    assert time.monotonic() - start > 1
    bob.poll(0.1)
    assert bob.inbox == []
    alice.wait_event("revoked")
    # neither by a ticket nor without
    assert "revoked" in refused(alice)
    alice.ticket = None
    assert "revoked" in refused(alice)
    lines = eventually(lambda: [line["reason"] for line in relay.log_lines(begin)
                                if line["msg"] == "handshake refused"][1:])
    assert lines == ["the identity is revoked"]
    assert relay.admin("revoke")["revoked"] == [alice.identity.text]
    assert relay.viaduct("revoke").stdout == f"{alice.identity.text}\n"
    assert relay.viaduct("revoke", "--undo", alice.identity.text).returncode == 0
    alice.connect()
    alice.wait_tag(bob.send(alice.identity.id))


@pytest.mark.relay(trust={"revoked": REVOKED})
def test_revoke_while_it_sends(relay, join, neighbours, revocations):
    """When the command is over, so are the messages: but for what a worker had in its hands."""
    alice, bob = join("alice"), join("bob")
    over = threading.Event()
    sent = 0

    def send():
        nonlocal sent
        while not over.wait(0.0005):
            alice.send(bob.identity.id, sent.to_bytes(8, "big"))
            sent += 1
    thread = threading.Thread(target=send)
    thread.start()
    try:
        eventually(lambda: bob.poll(0.01) or len(bob.inbox) > 50)
        assert relay.viaduct("revoke", alice.identity.text).returncode == 0
        last = sent
        eventually(lambda: bob.poll(0.01) or sent > last + 500)
    finally:
        over.set()
        thread.join()
    bob.poll(0.1)
    numbers = [int.from_bytes(message.payload, "big") for message in bob.inbox]
    assert max(numbers) <= last + BURST


@pytest.mark.relay(trust={"revoked": REVOKED})
def test_revocation_survives_restarts(relay, join, revocations):
    alice, bob = join("alice"), join("bob")
    relay.admin({"cmd": "revoke", "peer": alice.identity.text})
    assert stat.S_IMODE(os.stat(revocation_file(relay)).st_mode) == 0o600
    bob.leave()
    relay.stop()
    relay.start()
    refused(alice)
    bob.connect()


@pytest.mark.relay(trust={"revoked": REVOKED})
def test_revoke_who_is_joining(relay, make_peer, neighbours, revocations):
    alice = make_peer("alice").join()
    before = relay.drops()
    assert relay.admin({"cmd": "revoke", "peer": alice.identity.text})["cut"] == 1
    alice.ping_relay()
    relay.expect_drops(before, records={"revoked": 1})


@pytest.mark.relay(trust={"revoked": REVOKED})
def test_revoke_who_has_never_been_here(relay, federation, make_peer, revocations):
    stranger = make_peer(federation.issue("stranger", cn="a stranger"))
    done = relay.viaduct("revoke", "a stranger")
    assert done.returncode == 1 and "give the peer's id" in done.stderr
    assert relay.viaduct("revoke", stranger.identity.text).returncode == 0
    refused(stranger)
    for nonsense in 7, None, "", "x" * 26, stranger.identity.text.upper():
        assert not relay.admin({"cmd": "revoke", "peer": nonsense})["ok"]


@pytest.mark.relay(trust={"revoked": REVOKED})
def test_file_cannot_be_written(relay, join, neighbours, revocations):
    """The revocation holds nevertheless, and the command says what is wrong."""
    alice, carol = join("alice"), join("carol")
    # a folder in the place of the file that is written first: as root, nothing else is in the way
    os.mkdir(revocation_file(relay) + ".new")
    try:
        done = relay.viaduct("revoke", alice.identity.text)
        assert done.returncode == 1
        assert f"holds until the relay ends: {revocation_file(relay)}: " in done.stderr
        assert alice.identity.text not in relay.peers()
        refused(alice)
    finally:
        os.rmdir(revocation_file(relay) + ".new")
    assert relay.viaduct("revoke", alice.identity.text).returncode == 0
    with open(revocation_file(relay)) as file:
        assert alice.identity.text in file.read()
    assert carol.wait_tag(carol.send(carol.relay, kind=PING))


@pytest.mark.relay(trust={"revoked": REVOKED})
def test_file_is_lost(relay, join, neighbours, revocations):
    """Nobody comes back by that."""
    alice = join("alice")
    assert relay.viaduct("revoke", alice.identity.text).returncode == 0
    os.rename(revocation_file(relay), revocation_file(relay) + ".away")
    done = relay.viaduct("reload")
    assert done.returncode == 1 and "isn't there, but peers are revoked" in done.stderr
    refused(alice)
    os.rename(revocation_file(relay) + ".away", revocation_file(relay))
    assert relay.viaduct("reload").returncode == 0
    refused(alice)
    # without anybody in it, it is no loss
    assert relay.viaduct("revoke", "--undo", alice.identity.text).returncode == 0
    os.remove(revocation_file(relay))
    assert relay.viaduct("reload").returncode == 0


@pytest.mark.relay()
def test_revoke_without_a_file(relay, join, revocations):
    alice = join("alice")
    done = relay.viaduct("revoke", alice.identity.text)
    assert done.returncode == 0 and "until the relay ends" in done.stdout
    refused(alice)


def test_full_disk(small_disk, make_relay, federation):
    """The command says so, the old list stays, and the new one is written when there is room."""
    alice, bob, carol = (make(federation, name) for name in ("alice", "bob", "carol"))
    disk = small_disk(8192)
    relay = make_relay(trust={"revoked": str(disk / "revoked")}).start()
    bob.connect()
    carol.connect()
    assert relay.viaduct("revoke", alice.identity.text).returncode == 0
    before = (disk / "revoked").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(bytes(8192))
    done = relay.viaduct("revoke", bob.identity.text)
    assert done.returncode == 1
    assert "it holds until the relay ends" in done.stderr
    assert "No space left on device" in done.stderr
    bob.wait_event("revoked")
    refused(bob)
    assert (disk / "revoked").read_bytes() == before
    assert sorted(os.listdir(disk)) == ["filler", "revoked"]
    # a reload forgets nothing of it, and nobody else is disturbed
    assert relay.viaduct("reload").returncode == 0
    refused(bob)
    assert carol.wait_tag(carol.send(carol.relay, kind=PING))
    (disk / "filler").unlink()
    assert relay.viaduct("revoke", bob.identity.text).returncode == 0
    relay.kill()
    relay.start()
    refused(alice)
    refused(bob)
    carol.connect().leave()


def test_full_disk_undo(small_disk, make_relay, federation):
    """Who may come back can, also after a reload that reads the file in which it is still revoked."""
    alice, bob = (make(federation, name) for name in ("alice", "bob"))
    disk = small_disk(8192)
    relay = make_relay(trust={"revoked": str(disk / "revoked")}).start()
    for peer in alice, bob:
        assert relay.viaduct("revoke", peer.identity.text).returncode == 0
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(bytes(8192))
    done = relay.viaduct("revoke", "--undo", alice.identity.text)
    assert done.returncode == 1 and "it holds until the relay ends" in done.stderr
    assert relay.viaduct("reload").returncode == 0
    assert relay.admin("revoke")["revoked"] == [bob.identity.text]
    alice.connect().leave()
    refused(bob)
    # said again, it is written
    (disk / "filler").unlink()
    assert relay.viaduct("revoke", "--undo", alice.identity.text).returncode == 0
    assert alice.identity.text not in (disk / "revoked").read_text()
    # and from then on the file's word holds
    with open(disk / "revoked", "a") as file:
        file.write(f"{alice.identity.text}\n")
    assert relay.viaduct("reload").returncode == 0
    refused(alice)


def test_slow_disk(make_relay, federation, tmp_path):
    """Who is revoked goes at once, and nobody else waits, but the command until it is kept."""
    alice, bob, carol = (make(federation, name) for name in ("alice", "bob", "carol"))
    held, kept = tmp_path / "held", tmp_path / "revoked"
    relay = make_relay(trust={"revoked": str(kept)},
                       environment={"LD_PRELOAD": DISK, "DISK_HELD": str(held)}).start()
    for peer in alice, bob, carol:
        peer.connect()
    held.touch()
    commands = []
    for peer in alice, bob:
        commands.append(subprocess.Popen(
            [VIADUCT, "revoke", peer.identity.text, "--socket", relay.admin_socket],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        peer.wait_event("revoked")
        refused(peer)
    carol.connect()
    assert carol.wait_tag(carol.send(carol.relay, kind=PING))
    relay.reload()
    assert sorted(relay.admin("revoke")["revoked"]) == sorted(
        peer.identity.text for peer in (alice, bob))
    refused(alice)
    assert [command.poll() for command in commands] == [None, None]
    assert not kept.exists()
    held.unlink()
    for command in commands:
        assert command.communicate(timeout=PATIENCE)[1] == "" and command.returncode == 0
    assert all(peer.identity.text in kept.read_text() for peer in (alice, bob))
    # it is kept as well if who said so doesn't wait, and the relay ends
    held.touch()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(relay.admin_socket)
        gone.sendall(json.dumps({"cmd": "revoke", "peer": carol.identity.text}).encode() + b"\n")
        carol.wait_event("revoked")
    relay.process.send_signal(signal.SIGTERM)
    eventually(lambda: not os.path.exists(relay.admin_socket))
    held.unlink()
    relay.stop()
    assert carol.identity.text in kept.read_text()
    relay.start()
    refused(carol)


def crl(federation, directory, *identities, key=None):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateRevocationListBuilder().issuer_name(federation.name).last_update(
        now).next_update(now + datetime.timedelta(days=1))
    for identity in identities:
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(
            identity.x509.serial_number).revocation_date(now).build())
    path = os.path.join(directory, "crl.pem")
    with open(path, "wb") as file:
        file.write(builder.sign(key or federation.key, hashes.SHA256()).public_bytes(
            serialization.Encoding.PEM))
    return path


def make(federation, name):
    return Peer(federation.peer(name, "trust"), federation.trust, CONTROL_V4)


def test_crl(make_relay, federation, tmp_path):
    alice, bob = make(federation, "alice"), make(federation, "bob")
    path = crl(federation, tmp_path, alice.identity)
    make_relay(trust={"crl": path}).start()
    assert "revoked" in refused(alice)
    bob.connect().leave()


def test_pins(make_relay, federation, tmp_path):
    alice, bob, carol = (make(federation, name) for name in ("alice", "bob", "carol"))
    (tmp_path / "pins").write_text(f"# who may\n\n  {bob.identity.text} # bob\n")
    make_relay(trust={"pins": [alice.identity.text], "pins_file": "pins"}).start()
    alice.connect().leave()
    bob.connect().leave()
    refused(carol)


def test_bad_files(make_relay, federation, tmp_path):
    def wrong(error, **trust):
        done = subprocess.run([VIADUCTD, "--check", "-c", make_relay(trust=trust).file],
                              capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1 and error in done.stderr
    other = federation.__class__(tmp_path / "other")
    wrong("is not signed by the CA", crl=crl(federation, tmp_path, key=other.key))
    (tmp_path / "crl.pem").write_text("nothing")
    wrong("holds no CRL in PEM", crl="crl.pem")
    wrong("No such file", crl="nowhere")
    wrong("No such file", pins_file="nowhere")
    (tmp_path / "list").write_text("# fine\nnot an id\n")
    wrong("list:2: this is not a peer's id", revoked="list")
    wrong("list:2: this is not a peer's id", pins_file="list")
    (tmp_path / "list").write_bytes(b"\0" * 100)
    wrong("list:1: this is not a peer's id", revoked="list")
    wrong("is not a regular file", revoked=".")
    wrong("is not allowed; a peer's id", pins=["1" * 26])
