"""The keys of tickets: kept over restarts, rotated, and no trouble where they can't be kept."""

import os
import time

import pytest

from peer import HELLO, Connection
from relay import CONTROL_V4, eventually
from test_clock import CLOCK

ROTATION = 600  # seconds, of the relay's clock


@pytest.fixture
def start(make_relay, tmp_path):
    """Starts a viaductd whose ticket keys are in this file."""
    return lambda file: make_relay(
        tls={"tickets": str(file), "ticket_rotation": ROTATION},
        environment={"LD_PRELOAD": CLOCK, "CLOCK_FILE": str(tmp_path / "clock")}).start()


@pytest.fixture
def rotate(tmp_path):
    """Has the relay rotate its keys: by its clock it is time for that."""
    passed = 0

    def rotate():
        nonlocal passed
        passed += ROTATION
        (tmp_path / "clock.new").write_text(str(passed))
        os.rename(tmp_path / "clock.new", tmp_path / "clock")
    return rotate


@pytest.fixture
def shake(federation):
    """Joins, with this ticket; returns whether that was resumed, and the next ticket."""
    identity = federation.peer("returning")

    def shake(ticket=None):
        connection = Connection(identity, federation.trust, CONTROL_V4, session=ticket)
        connection.ask(HELLO)
        return connection.resumed, connection.close()
    return shake


def test_resumed_after_a_restart(start, shake, tmp_path):
    relay = start(tmp_path / "keys")
    ticket = shake()[1]
    relay.kill()
    relay.start()
    assert os.stat(tmp_path / "keys").st_mode & 0o777 == 0o600
    assert not relay.said("ticket keys not read")
    resumed, ticket = shake(ticket)
    assert resumed
    assert shake(ticket)[0]
    assert relay.admin("status")["handshakes"]["resumed"] == 2


def test_rotated(start, shake, rotate, tmp_path):
    """A ticket can be used while its key is the newest, or the one before."""
    start(tmp_path / "keys")
    tickets = [shake()[1] for number in range(2)]

    def rotated():
        keys = (tmp_path / "keys").read_bytes()
        rotate()
        eventually(lambda: (tmp_path / "keys").read_bytes() != keys)
    rotated()
    assert shake(tickets[0])[0]
    rotated()
    assert not shake(tickets[1])[0]


def test_full_disk(small_disk, start, shake, rotate):
    """One warning; peers resume as long as this process lives; kept as soon as there is room."""
    disk = small_disk(4096)
    (disk / "filler").write_bytes(bytes(4096))
    relay = start(disk / "keys")
    ticket = shake()[1]
    assert shake(ticket)[0]

    def forgotten():
        """Whether it has rotated twice by now, and so failed again."""
        rotate()
        time.sleep(1.2)  # it looks at its clock once a second
        return not shake(ticket)[0]
    eventually(forgotten)
    assert len(relay.said("ticket keys not kept")) == 1
    assert os.listdir(disk) == ["filler"]
    (disk / "filler").unlink()
    rotate()
    eventually(lambda: relay.said("ticket keys kept"))
    assert sorted(os.listdir(disk)) == ["keys"]


def test_disk_that_fills_up(small_disk, start, shake, rotate):
    """The file keeps the old keys, by which peers resume after a restart as well."""
    disk = small_disk(8192)
    relay = start(disk / "keys")
    ticket = shake()[1]
    keys = (disk / "keys").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(bytes(8192))
    rotate()
    eventually(lambda: relay.said("ticket keys not kept"))
    assert relay.said("ticket keys not kept")[0]["reason"] == "No space left on device"
    assert (disk / "keys").read_bytes() == keys
    relay.kill()
    relay.start()
    assert not relay.said("ticket keys not read")
    assert shake(ticket)[0]
    (disk / "filler").unlink()


def test_no_folder(start, shake, tmp_path):
    relay = start(tmp_path / "nowhere" / "keys")
    assert relay.said("ticket keys not kept")
    assert shake(shake()[1])[0]


@pytest.mark.parametrize("spoil", [
    lambda file: file.write_bytes(b"viaduct tickets"),
    lambda file: file.write_bytes(bytes(1000)),
    lambda file: file.chmod(0o644),
], ids=["short", "noise", "readable_by_all"])
def test_bad_file(start, shake, tmp_path, spoil):
    """Is replaced, with a warning."""
    file = tmp_path / "keys"
    relay = start(file)
    ticket = shake()[1]
    relay.kill()
    spoil(file)
    relay.start()
    assert relay.said("ticket keys not read")
    assert not shake(ticket)[0]
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_size > 100
