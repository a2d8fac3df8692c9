"""Fixtures of the lab tests: namespaces, certificates, viaductd, well-behaved neighbours."""

import itertools
import json
import os
import subprocess
import threading
import time

import pytest

from federation import Federation
from netns import Lab
from peer import Peer
from relay import CONTROL_V4, PATIENCE, VIADUCTD, Relay


def pytest_configure(config):
    config.addinivalue_line("markers", "relay(queues=1, SECTION={FIELD: VALUE}): how to run "
                            "viaductd for this test, over the defaults")


@pytest.fixture(scope="session")
def labs():
    """Gives the lab with so many queues, made when first asked for; enters it."""
    assert os.geteuid() == 0, "the lab tests need root"
    made = {}

    def get(queues=1):
        if queues not in made:
            made[queues] = Lab(f"vt{os.getpid()}q{queues}", queues)
            made[queues].up()
        made[queues].enter()
        return made[queues]
    try:
        yield get
    finally:
        for lab in made.values():
            lab.down()


@pytest.fixture
def lab(labs):
    return labs()


@pytest.fixture(scope="session")
def federation(tmp_path_factory):
    return Federation(tmp_path_factory.mktemp("pki"))


class House:
    """Keeps the viaductd of the last test, for the next one if that wants the same."""

    def __init__(self, labs, federation, directories):
        self.labs = labs
        self.federation = federation
        self.directories = directories
        self.relay = None
        self.wanted = None

    def get(self, queues=1, **sections):
        lab = self.labs(queues)
        if self.relay and self.wanted != (queues, sections):
            self.stop()
        if not self.relay:
            assert os.path.exists(VIADUCTD), f"{VIADUCTD} isn't built"
            self.relay = Relay(lab, self.federation, self.directories.mktemp("relay"),
                               **sections).start()
            self.wanted = (queues, sections)
        return self.relay

    def stop(self):
        relay, self.relay = self.relay, None
        if relay:
            relay.stop()

    def kill(self):
        relay, self.relay = self.relay, None
        if relay:
            relay.kill()


@pytest.fixture(scope="session")
def house(labs, federation, tmp_path_factory):
    house = House(labs, federation, tmp_path_factory)
    try:
        yield house
        house.stop()
    finally:
        house.kill()


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.failed = True


@pytest.fixture
def driver():
    """For tests to parametrize."""
    return "af_xdp"


@pytest.fixture
def polling():
    """For tests to parametrize."""
    return "adaptive"


@pytest.fixture
def threads():
    """For handshakes; for tests to parametrize."""
    return 0


@pytest.fixture
def relay(request, house, driver, polling, threads):
    """A running viaductd, configured by the test's marks; its ledgers balance afterwards."""
    wanted = {}
    for mark in request.node.iter_markers("relay"):
        wanted = {**mark.kwargs, **wanted}
    wanted["data"] = {"driver": driver, "polling": polling, **wanted.get("data", {})}
    if threads:
        wanted["crypto"] = {"threads": threads}
    relay = house.get(**wanted)
    yield relay
    try:
        relay.check()
        relay.ledger()
    except BaseException:
        request.node.failed = True
        raise
    finally:
        if getattr(request.node, "failed", False):
            print(relay.log())
            house.kill()


@pytest.fixture
def make_relay(request, lab, house, federation, tmp_path):
    """Makes relays of the test's own, which don't run yet; it may do with them what it likes.

    A module whose tests all want one has its own `relay`, made by this; peers come as ever."""
    house.stop()
    made = []

    def make(folder="", **options):
        made.append(Relay(lab, federation, tmp_path / folder, **options))
        return made[-1]
    yield make
    running = [relay for relay in made if relay.process]
    try:
        for relay in running:
            relay.check()
            relay.ledger()
            relay.stop()
    except BaseException:
        request.node.failed = True
        raise
    finally:
        for relay in running:
            if getattr(request.node, "failed", False):
                print(relay.log())
            relay.kill()


@pytest.fixture
def small_disk(tmp_path):
    """Gives a folder that has room for so many bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder), check=True)
        return folder
    yield mount
    subprocess.run(("umount", "-l", folder), check=True)


clusters = itertools.count(1)


@pytest.fixture
def identities(federation):
    """Gives the test's own peer of this name."""
    cluster = f"team{next(clusters)}"
    return lambda name: federation.peer(name, cluster)


@pytest.fixture
def make_peer(relay, federation, identities):
    """Makes peers that have not joined yet, and says goodbye for them."""
    made = []

    def make(name, control=CONTROL_V4, **options):
        identity = identities(name) if isinstance(name, str) else name
        peer = Peer(identity, federation.trust, control, **options)
        made.append(peer)
        return peer
    yield make
    for peer in made:
        if peer.path and relay.process and relay.peers().get(peer.identity.text, {}).get("index") == peer.index:
            peer.leave()
        peer.close()


@pytest.fixture
def join(make_peer):
    """Makes peers that have joined and are reachable."""
    return lambda name, **options: make_peer(name, **options).connect()


class Neighbours(threading.Thread):
    """Two peers who mind their own business: each message must arrive exactly once."""

    def __init__(self, left, right, pause=0.01):
        super().__init__()
        self.pair = (left, right)
        self.pause = pause
        self.sent = 0
        self.got = ({}, {})  # payload to count
        self.over = threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.over.is_set():
                self._exchange(self.pause)
            deadline = time.monotonic() + PATIENCE
            while self.missing() and time.monotonic() < deadline:
                self._receive(0.05)
        except BaseException as error:  # told by finish()
            self.error = error

    def _exchange(self, pause):
        left, right = self.pair
        payload = self.sent.to_bytes(8, "big") * 4
        self.sent += 1
        left.send(right.identity.id, payload)
        right.send(left.identity.id, payload)
        self._receive(pause)

    def _receive(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for peer, got in zip(self.pair, self.got):
                peer.poll((until - time.monotonic()) / 4)
                for message in peer.inbox:
                    got[message.payload] = got.get(message.payload, 0) + 1
                peer.inbox.clear()

    def missing(self):
        return 2 * self.sent - len(self.got[0]) - len(self.got[1])

    def finish(self):
        self.over.set()
        self.join()
        if self.error:
            raise self.error
        assert self.missing() == 0, f"neighbours lost {self.missing()} of {2 * self.sent}"
        for peer, got in zip(self.pair, self.got):
            assert set(got.values()) <= {1}, "neighbours got a message twice"
            assert peer.bad == []


@pytest.fixture
def neighbours(join):
    """Lets well-behaved neighbours talk while the test runs; they must lose nothing."""
    thread = Neighbours(join("left-neighbour"), join("right-neighbour"))
    thread.start()
    yield thread
    thread.finish()


@pytest.fixture
def watch(relay):
    """Gives the next event of a peer, or of an identity."""
    file = relay.events()

    def next_of(peer):
        identity = getattr(peer, "identity", peer)
        while True:
            event = json.loads(file.readline())
            if event["id"] == identity.text:
                return event
    yield next_of
    file.close()
