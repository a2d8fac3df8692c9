"""Those who would keep the relay busy with handshakes: others notice nothing, and get in."""

import os
import random
import resource
import socket
import threading
import time

import pytest
from OpenSSL import SSL

from netns import ROAMING_V4
from peer import HELLO, Connection
from relay import SANITIZED, CONTROL_V4, CONTROL_V6, PORT, eventually

MANY = 2000


@pytest.fixture
def open_many():
    """Opens TCP connections that say nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened = []

    def open_many(count, source=None):
        for number in range(count):
            sock = socket.socket()
            if source:
                sock.bind((source, 0))
            sock.setblocking(False)
            sock.connect_ex(CONTROL_V4)
            opened.append(sock)
        return opened
    yield open_many
    for sock in opened:
        sock.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def handshakes(relay):
    return relay.admin("status")["handshakes"]


def descriptors(relay):
    return len(os.listdir(f"/proc/{relay.admin('status')['pid']}/fd"))


def memory(relay):
    with open(f"/proc/{relay.admin('status')['pid']}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def no_growth(relay):
    """What a flood made the relay take, it gives back."""
    before = descriptors(relay), memory(relay)
    yield
    eventually(lambda: descriptors(relay) <= before[0], message="descriptors are left")
    # the sanitizers' allocator keeps the stacks of all that was freed
    assert memory(relay) - before[1] < (64 if SANITIZED else 16) << 20


def quiet(relay):
    """No connection is left over."""
    return all(handshakes(relay)[name] == 0 for name in ("open", "waiting", "silent"))


@pytest.mark.relay(limits={"source_handshakes": 10000, "source_handshakes_per_second": 100000,
                           "handshakes": 8, "tls_timeout": 60})
@pytest.mark.parametrize("threads", [0, 2])
def test_silent_connections(relay, join, neighbours, open_many):
    """Thousands of them take no place of those who speak."""
    sockets = open_many(MANY)
    eventually(lambda: handshakes(relay)["silent"] > MANY / 2)
    for number in range(5):
        join(f"speaks{number}")
    assert handshakes(relay)["silent"] > MANY / 2
    for sock in sockets:
        sock.close()
    eventually(lambda: quiet(relay))


@pytest.mark.relay(limits={"source_handshakes": 10000, "source_handshakes_per_second": 100000,
                           "handshakes": 8, "tls_timeout": 60})
@pytest.mark.parametrize("threads", [0, 2])
def test_one_byte_a_second(relay, join, neighbours, open_many):
    """They take places, but lose them at once to who sends a ClientHello."""
    sockets = open_many(300)
    over = threading.Event()

    def drip():
        while not over.is_set():
            for sock in sockets:
                try:
                    sock.send(b"\x16")
                except OSError:
                    pass
            over.wait(1)
    thread = threading.Thread(target=drip)
    thread.start()
    try:
        eventually(lambda: handshakes(relay)["open"] == 8)
        for number in range(3):
            join(f"speaks{number}")
    finally:
        over.set()
        thread.join()
    assert handshakes(relay)["evicted"] > 0
    for sock in sockets:
        sock.close()
    eventually(lambda: quiet(relay))


@pytest.mark.relay(limits={"source_handshakes": 10})
def test_limit_of_a_source(relay, join, neighbours, open_many):
    """Its own handshakes are limited; another address, and IPv6, know nothing of it."""
    before = handshakes(relay)
    open_many(100, ROAMING_V4[0])

    def counted(what):
        return handshakes(relay)[what] - before[what]
    eventually(lambda: counted("closed") >= 50 and counted("over_source_handshakes") >= 90)
    join("elsewhere")
    join("six", control=CONTROL_V6)


@pytest.mark.relay(limits={"source_handshakes_per_second": 5, "busy_per_second": 1,
                           "member_handshakes_per_second": 1})
def test_busy(relay, federation, neighbours):
    """Of those over the limit a few are told when to come back, the others are closed."""
    identity = federation.peer("eager")
    answers = []

    def shake():
        for number in range(4):
            try:
                connection = Connection(identity, federation.trust, CONTROL_V4,
                                        source=ROAMING_V4[1])
                answers.append(connection.ask(HELLO))
                connection.abandon()
            except (SSL.Error, OSError):
                answers.append(None)
    # together they are faster than the limit, however long each takes
    threads = [threading.Thread(target=shake) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    busy = [answer for answer in answers if answer and answer.get("error") == "busy"
            and "overloaded" in answer["detail"]]
    assert busy and all(2 <= answer["retry_after"] <= 10 for answer in busy)
    assert None in answers
    assert handshakes(relay)["busy"] >= len(busy)


@pytest.mark.relay(limits={"handshakes": 4, "handshakes_per_second": 5, "waiting": 50,
                           "source_handshakes": 10000, "source_handshakes_per_second": 100000})
@pytest.mark.parametrize("threads", [0, 2])
def test_members_rekey_in_a_flood(relay, join, neighbours, identities, federation):
    """From another address they use up all that newcomers may have; rekeys have their own."""
    members = [join(f"member{number}") for number in range(3)]
    identity = federation.peer("flooding")
    over = threading.Event()

    def flood():
        while not over.is_set():
            try:
                Connection(identity, federation.trust, CONTROL_V4,
                           source=ROAMING_V4[2], timeout=1).abandon()
            except (SSL.Error, OSError):
                pass
    threads = [threading.Thread(target=flood) for number in range(10)]
    before = handshakes(relay)
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: handshakes(relay)["waiting"] > 0)
        for member in members:
            member.rekey()
        assert handshakes(relay)["waiting"] > 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert handshakes(relay)["of_members"] - before["of_members"] >= len(members)


def client_hello():
    """The bytes that a good peer begins with."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([b"viaduct/1"])
    connection = SSL.Connection(context)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65536)


@pytest.mark.relay(limits={"handshakes": 8})
def test_relay_was_away(relay):
    """What came while it didn't run, it reads before it says that somebody takes too long."""
    hello = client_hello()
    before = handshakes(relay)
    sockets = [socket.create_connection(CONTROL_V4, timeout=10) for _ in range(9)]
    try:
        for sock in sockets[:8]:
            sock.sendall(hello[:10])
        eventually(lambda: handshakes(relay)["open"] == 8)
        with relay.suspended():
            sockets[8].sendall(hello)
            for sock in sockets[:8]:
                sock.sendall(hello[10:])
            time.sleep(0.2)  # more than it gives a newcomer for its ClientHello
        # as many as there are places get their ServerHello; when they go, so does the last
        for sock in sockets:
            assert sock.recv(1) == b"\x16"
            sock.close()
    finally:
        for sock in sockets:
            sock.close()
    eventually(lambda: quiet(relay))
    assert handshakes(relay)["evicted"] == before["evicted"]


@pytest.mark.parametrize("threads", [0, 2])
def test_aborted_at_each_step(relay, join, federation, neighbours):
    """In order and by reset: nothing of it stays."""
    hello = client_hello()
    identity = federation.peer("aborting")
    before = handshakes(relay)
    for reset in False, True:
        for sent in (b"", hello[:1], hello[:len(hello) // 2], hello):
            with socket.create_connection(CONTROL_V4) as sock:
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                    b"\x01\0\0\0\0\0\0\0")
                sock.sendall(sent)
                if sent == hello:
                    sock.recv(1)
        for said in (b"", HELLO[:10], HELLO):
            connection = Connection(identity, federation.trust, CONTROL_V4)
            if said:
                connection.tls.send(said)
            if reset:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                             b"\x01\0\0\0\0\0\0\0")
            connection.abandon()
    eventually(lambda: quiet(relay))
    after = handshakes(relay)
    assert sum(after[name] - before[name] for name in ("ok", "failed")) >= 12
    join("well-behaved")


def test_garbage_on_both_ports(relay, join, neighbours):
    """While others work; TCP and UDP have the same number."""
    chance = random.Random(7740)
    over = threading.Event()
    before, failed = relay.drops(), handshakes(relay)["failed"]

    def throw_datagrams():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not over.wait(0.005):
                for number in range(20):  # fewer than any ring holds
                    sock.sendto(chance.randbytes(chance.randrange(1, 1200)),
                                (CONTROL_V4[0], PORT))

    def throw_streams():
        while not over.is_set():
            try:
                with socket.create_connection(CONTROL_V4, timeout=1) as sock:
                    sock.sendall(chance.randbytes(chance.randrange(1, 3000)))
                    sock.recv(100)
            except OSError:
                pass
    threads = [threading.Thread(target=target) for target in (throw_datagrams, throw_streams)]
    for thread in threads:
        thread.start()
    try:
        for number in range(10):
            join(f"working{number}")
            time.sleep(0.2)
        eventually(lambda: handshakes(relay)["failed"] > failed
                   and relay.drops().dropped_since(before)[0])
    finally:
        over.set()
        for thread in threads:
            thread.join()
    eventually(lambda: quiet(relay))
    assert not relay.drops().dropped_since(before)[1]


@pytest.mark.relay(limits={"takeovers_per_minute": 60000})
@pytest.mark.parametrize("threads", [0, 2])
def test_a_peer_that_joins_a_thousand_times(relay, federation, neighbours):
    """One member, one session, and no more memory than at first."""
    identity = federation.peer("restless")
    sizes = []
    ticket = None
    for number in range(1000):
        connection = Connection(identity, federation.trust, CONTROL_V4, session=ticket)
        assert "index" in connection.ask(HELLO)
        ticket = connection.close()
        if number in (200, 999):
            sizes.append(memory(relay))
    assert [peer["state"] for peer in relay.peers().values()
            if peer["id"] == identity.text] == ["joining"]
    # the sanitizers' allocator keeps the stacks of all that was freed
    assert sizes[1] - sizes[0] < (24 if SANITIZED else 4) << 20


@pytest.mark.relay(limits={"takeovers_per_minute": 6})
def test_two_peers_with_the_same_certificate(relay, make_peer, neighbours):
    """The later one has the session; the earlier one is told, and doesn't come back by itself."""
    first, second = make_peer("twin"), make_peer("twin")
    first.connect()
    second.connect()
    eventually(lambda: first.poll(0.01) or first.replaced)
    assert relay.peers()[second.identity.text]["index"] == second.index
    assert second.wait_tag(second.send(second.identity.id))
