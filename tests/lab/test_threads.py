"""Threads that do handshakes. What goes wrong with those: test_bad_tls.py and test_flood.py."""

import json
import os
import socket
import threading
import time

import pytest
from OpenSSL import SSL

from peer import HELLO, Connection, Peer, Refused
from relay import CONTROL_V4, eventually

pytestmark = pytest.mark.parametrize("threads", [2])


def cpu_ns(relay, name):
    """What the threads of this name have run."""
    folder = f"/proc/{relay.process.pid}/task"
    total = 0
    for task in os.listdir(folder):
        with open(f"{folder}/{task}/comm") as file:
            if not file.read().startswith(name):
                continue
        with open(f"{folder}/{task}/schedstat") as file:
            total += int(file.read().split()[0])
    return total


def test_they_do_it(relay, join, neighbours):
    before = relay.admin("status")["handshakes"]
    worked = cpu_ns(relay, "viaduct-tls")
    alice, bob = join("alice"), join("bob")
    alice.rekey()
    assert alice.resumed
    bob.wait_tag(alice.send(bob.identity.id))
    after = relay.admin("status")["handshakes"]
    assert after["threaded"] >= before["threaded"] + 3
    assert after["offloaded"] == before["offloaded"] == 0
    assert cpu_ns(relay, "viaduct-tls") > worked


@pytest.mark.relay(limits={"takeovers_per_minute": 60000})
def test_many_at_a_time(relay, federation, neighbours):
    """Beside each other, some for peers that are gone by then; a reload takes their place."""
    identities = [federation.peer(f"threaded{number}") for number in range(8)]
    results = []

    def shake(identity, abandon):
        for turn in range(20):
            try:
                connection = Connection(identity, federation.trust, CONTROL_V4)
                if abandon:
                    connection.abandon()
                    continue
                answer = connection.ask(HELLO)
                results.append("index" in answer or answer)
                connection.close()
            except (SSL.Error, OSError) as error:
                results.append(error)
    running = [threading.Thread(target=shake, args=(identity, number % 2))
               for number, identity in enumerate(identities)]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        relay.reload()
        time.sleep(0.02)
    assert results == [True] * 80
    eventually(lambda: relay.admin("status")["handshakes"]["open"] == 0)


@pytest.mark.relay(limits={"tls_timeout": 1})
def test_half_a_client_hello(relay, neighbours):
    """Goes to a thread, comes back for want of more, and times out."""
    before = relay.admin("status")["handshakes"]
    with socket.create_connection(CONTROL_V4, timeout=10) as sock:
        sock.sendall(bytes.fromhex("1603010200010001fc0303"))
        assert sock.recv(1) == b""
    after = relay.admin("status")["handshakes"]
    assert after["threaded"] > before["threaded"]
    assert after["timed_out"] == before["timed_out"] + 1


def test_stops_among_handshakes(make_relay, federation, threads):
    """Whatever is under way then."""
    relay = make_relay(crypto={"threads": threads}, drain={"seconds": 0}).start()
    over = threading.Event()

    def shake(identity):
        while not over.is_set():
            try:
                Peer(identity, federation.trust, CONTROL_V4).join().close()
            except (SSL.Error, OSError, Refused, json.JSONDecodeError):
                pass
    running = [threading.Thread(target=shake, args=(federation.peer(f"late{number}"),))
               for number in range(4)]
    for thread in running:
        thread.start()
    try:
        eventually(lambda: relay.admin("status")["handshakes"]["ok"] > 20)
        relay.stop()
    finally:
        over.set()
        for thread in running:
            thread.join()
