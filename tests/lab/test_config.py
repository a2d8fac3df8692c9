"""The configuration: what is wrong is said in one message, with the place and what is allowed."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

from netns import RELAY_V4
from relay import ENVIRONMENT, PATIENCE, PORT, VIADUCTD, eventually


def viaductd(relay, *arguments, wrapper=()):
    """Runs viaductd in the foreground, expecting it to end soon."""
    return subprocess.run(relay.lab.relay_command(*wrapper, VIADUCTD, *arguments),
                          capture_output=True, text=True, timeout=PATIENCE, env=ENVIRONMENT)


def complaint(done):
    """What a run that fails has to say: the one sentence."""
    assert done.returncode > 0, done
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) >= 1, done
    return lines[-1]


def test_check_good_file(make_relay):
    relay = make_relay()
    assert viaductd(relay, "--check", "-c", relay.file).returncode == 0


ALL = {
    "data": {"polling": "busy", "mtu": 1400, "driver": "auto", "workers": 1},
    "session": {"keepalive": 5, "expiry": 20, "rekey": 600, "lanes_up": 2, "key_records": 100000,
                "max": 20000, "ciphers": ["chacha20-poly1305"]},
    "limits": {"hello_timeout": 2, "handshakes": 100, "takeovers_per_minute": 2},
    "log": {"level": "debug"},
}


def test_every_field(make_relay):
    relay = make_relay(**ALL)
    done = viaductd(relay, "--check", "-c", relay.file)
    assert done.returncode == 0, done.stderr


# section, field, wrong value (None: missing), and what the message says about it
WRONG = [
    ("data", "colour", "green", "unknown.*interface.*workers"),
    ("data", "workers", "two", "whole number from 1"),
    ("data", "workers", 0, "from 1"),
    ("data", "workers", 100000, "from 1"),
    ("data", "workers", 1.5, "from 1"),
    ("data", "port", 0, "from 1 to 65535"),
    ("data", "port", 65536, "from 1 to 65535"),
    ("data", "port", -1, "from 1 to 65535"),
    ("data", "port", [7740], "from 1 to 65535"),
    ("data", "driver", "dpdk", "auto, af_xdp, af_packet"),
    ("data", "polling", "lazy", "adaptive, busy"),
    ("data", "mtu", 1279, "from 1280 to 9000"),
    ("data", "mtu", 9001, "from 1280 to 9000"),
    ("data", "interface", ["a"], "text"),
    ("data", "interface", "", "empty"),
    ("data", "interface", "a-name-that-is-too-long", "at most 15"),
    ("data", "interface", None, "missing"),
    ("control", "listen", "10.77.0.1:7740", "list"),
    ("control", "listen", [], "empty"),
    ("control", "listen", ["somewhere"], "an address such as"),
    ("control", "listen", ["10.77.0.1:99999"], "an address such as"),
    ("session", "keepalive", 0, "from 1"),
    ("session", "keepalive", "often", "whole number"),
    ("session", "expiry", 0, "from 2"),
    ("session", "lanes_up", 9, "from 1 to 8"),
    ("session", "key_records", 1 << 29, "to 268435456"),
    ("session", "max", 0, "from 1"),
    ("session", "max", 1 << 21, "from 1"),
    ("session", "ciphers", [], "empty"),
    ("session", "ciphers", ["rot13"], "aes-256-gcm, chacha20-poly1305"),
    ("limits", "hello_timeout", 0, "from 1"),
    ("limits", "handshakes", 0, "from 1"),
    ("log", "level", "loud", "debug, info, warning, error"),
    ("tls", "certificate", None, "missing"),
    ("tls", "ca", None, "missing"),
]


def place(file, section, field):
    """The number of the field's line, or else of the first in its section."""
    with open(file) as lines:
        lines = lines.read().splitlines()
    first = lines.index(f"{section}:") + 1
    for number in range(first, len(lines)):
        if not lines[number].startswith(" "):
            break
        if lines[number].startswith(f"  {field}:"):
            return number + 1
    return first + 1


@pytest.mark.parametrize("section, field, value, words", WRONG,
                         ids=[f"{w[0]}-{w[1]}-{json.dumps(w[2])[:20]}" for w in WRONG])
def test_wrong_value(make_relay, section, field, value, words):
    relay = make_relay(**{section: {field: value}})
    said = complaint(viaductd(relay, "--check", "-c", relay.file))
    assert f"{relay.file}:{place(relay.file, section, field)}:" in said
    assert f"{section}.{field}" in said
    assert re.search(words, said), said


def test_expiry_shorter_than_keepalive(make_relay):
    relay = make_relay(session={"keepalive": 20, "expiry": 10})
    assert re.search("keepalive", complaint(viaductd(relay, "--check", "-c", relay.file)))


@pytest.mark.parametrize("text", ["tls: {", "a: b: c\n", "\t- x\n", "data:\n  port: 1\n bad\n",
                                  "[]\n", "nonsense:\n  x: 1\n"])
def test_no_yaml(make_relay, text):
    relay = make_relay()
    with open(relay.file, "w") as file:
        file.write(text)
    said = complaint(viaductd(relay, "--check", "-c", relay.file))
    assert re.search(re.escape(relay.file) + r":\d+:", said), said


def test_same_field_twice(make_relay):
    relay = make_relay()
    with open(relay.file, "a") as file:
        file.write("log:\n  level: info\n")
    assert "log" in complaint(viaductd(relay, "--check", "-c", relay.file))


def test_empty_file(make_relay):
    relay = make_relay()
    open(relay.file, "w").close()
    assert relay.file in complaint(viaductd(relay, "--check", "-c", relay.file))


def test_no_file(make_relay):
    relay = make_relay()
    said = complaint(viaductd(relay, "--check", "-c", relay.file + ".old"))
    assert relay.file + ".old" in said and re.search("[Nn]o such file", said)


# what is read when it starts and by a reload, and what only when it starts
FILES = [("tls", "certificate"), ("tls", "key"), ("tls", "ca"), ("trust", "crl"),
         ("trust", "pins_file"), ("trust", "revoked")]
KEPT = [("tls", "tickets", "ticket keys not read"), ("trust", "scores", "scores not read")]


def test_fifo_in_place_of_a_file(make_relay, tmp_path):
    """Nobody writes to it, and nobody waits for that."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    relay = make_relay().start()
    for section, field in FILES:
        before = relay.config.get(section, {}).get(field)
        relay.configure(**{section: {field: fifo}})
        assert relay.admin("reload")["error"] == f"{section}.{field}: {fifo}: is not a regular file"
        relay.configure(**{section: {field: before}})
    os.rename(relay.file, relay.file + ".away")
    os.mkfifo(relay.file)
    assert relay.admin("reload")["error"] == f"{relay.file}: is not a regular file"
    os.remove(relay.file)
    os.rename(relay.file + ".away", relay.file)
    relay.reload()
    relay.stop()
    for section, field, message in KEPT:
        relay.configure(**{section: {field: f"{fifo}-{field}"}})
        os.mkfifo(f"{fifo}-{field}")
    relay.start()
    for section, field, message in KEPT:
        assert relay.said(message)[0]["reason"] == "is not a regular file"


def test_usage(make_relay):
    relay = make_relay()
    assert "-c" in viaductd(relay, "--help").stdout
    assert viaductd(relay).returncode > 0
    assert viaductd(relay, "--fly").returncode > 0


def starts_not(relay, *words, wrapper=()):
    """It says in one sentence why it doesn't start, and ends."""
    said = complaint(viaductd(relay, "-c", relay.file, wrapper=wrapper))
    for word in words:
        assert re.search(word, said), said
    return said


def test_no_such_interface(make_relay):
    starts_not(make_relay(data={"interface": "nowhere0"}), "nowhere0")


def test_certificate_missing(make_relay, tmp_path):
    starts_not(make_relay(tls={"certificate": str(tmp_path / "none.pem")}), "none.pem")


def test_certificate_is_none(make_relay, tmp_path):
    (tmp_path / "bad.pem").write_text("nonsense")
    starts_not(make_relay(tls={"ca": str(tmp_path / "bad.pem")}), "bad.pem")


def test_key_of_another_certificate(make_relay, federation):
    starts_not(make_relay(tls={"key": federation.peer("alice").key}), "key")


def test_certificate_of_a_peer(make_relay, federation):
    peer = federation.peer("alice")
    starts_not(make_relay(tls={"certificate": peer.certificate, "key": peer.key}),
               re.escape(peer.certificate), "relay|serverAuth|purpose")


def test_control_address_of_another_host(make_relay):
    starts_not(make_relay(control={"listen": ["10.99.0.1:7740"]}), r"10\.99\.0\.1:7740")


IN_USE = """
import socket, sys
sock = socket.socket(socket.AF_INET, getattr(socket, sys.argv[1]))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, sock.type == socket.SOCK_STREAM)
sock.bind((sys.argv[2], int(sys.argv[3])))
sock.type == socket.SOCK_STREAM and sock.listen()
print("bound", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_address_in_use(make_relay, kind):
    relay = make_relay()
    other = subprocess.Popen(
        relay.lab.relay_command(sys.executable, "-c", IN_USE, kind, RELAY_V4, str(PORT)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"bound\n"
        starts_not(relay, str(PORT), "in use")
    finally:
        other.communicate()


def test_started_twice(make_relay):
    """The second says so, and the first goes on."""
    relay = make_relay().start()
    starts_not(relay, "in use|running")
    relay.check()
    assert relay.admin("status")["ok"]


def test_stale_admin_socket(make_relay):
    """What a killed viaductd left behind is no obstacle."""
    relay = make_relay()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(relay.admin_socket)
    relay.start()
    assert relay.admin("status")["ok"]


def test_admin_socket_of_somebody_stuck(make_relay):
    """Who listens, but accepts nobody any more, is no reason to wait."""
    relay = make_relay()
    with contextlib.ExitStack() as stack:
        stuck = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        stuck.bind(relay.admin_socket)
        stuck.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                waits = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                waits.setblocking(False)
                waits.connect(relay.admin_socket)
        starts_not(relay, "another process listens there")


def test_admin_socket_in_no_directory(make_relay, tmp_path):
    starts_not(make_relay(control={"admin": str(tmp_path / "none" / "sock")}), "none/sock")


def test_no_permission(make_relay, federation):
    """Not as root: one sentence, not a page of DPDK's."""
    relay = make_relay()
    with tempfile.TemporaryDirectory() as public:
        os.chmod(public, 0o755)
        for section, field in ("tls", "certificate"), ("tls", "key"), ("tls", "ca"):
            copied = shutil.copy(relay.config[section][field], public)
            os.chmod(copied, 0o644)
        text = open(relay.file).read().replace(os.path.dirname(federation.trust), public)
        text = text.replace(relay.admin_socket, "/tmp/none.sock")
        path = os.path.join(public, "viaductd.yaml")
        with open(path, "w") as file:
            file.write(text)
        done = viaductd(relay, "-c", path, wrapper=(
            "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
            "--inh-caps=-all", "--bounding-set=-all"))
    assert re.search("root|CAP_|permi", complaint(done)), done.stderr


def test_auto_says_which_driver(make_relay):
    relay = make_relay(data={"driver": "auto"}).start()
    assert relay.admin("status")["driver"] == "af_xdp"
    assert [line for line in relay.log_lines() if "af_xdp" in str(line)]


def test_auto_without_xdp(make_relay):
    """Without the right to load programs it takes the next driver, and says why."""
    relay = make_relay(data={"driver": "auto"})
    relay.lab = WithoutXdp(relay.lab)
    relay.start()
    assert relay.admin("status")["driver"] == "af_packet"
    assert [line for line in relay.log_lines() if "af_packet" in str(line)]


class WithoutXdp:
    """A lab in which the relay lacks the capabilities that XDP needs."""

    def __init__(self, lab):
        self.lab = lab

    def relay_command(self, *command):
        return self.lab.relay_command(
            "setpriv", "--bounding-set=-sys_admin,-bpf", "--inh-caps=-sys_admin,-bpf", *command)


def test_huge_pages(make_relay):
    """It works without, and says what to do about it."""
    relay = make_relay().start()
    if not relay.admin("status")["huge_pages"]:
        assert [line for line in relay.log_lines() if "huge" in line.get("msg", "")]


def test_log_is_logfmt(make_relay):
    relay = make_relay().start()
    relay.stop()
    for line in relay.log_lines():
        assert "msg" in line and "level" in line, relay.log()


def test_admin_socket(make_relay):
    relay = make_relay().start()
    status = relay.admin("status")
    assert status["ok"] and status["pid"] == relay.process.pid
    for request in {"cmd": "fly"}, {}, [], "nothing\n":
        answer = relay.admin(request) if request != "nothing\n" else relay.admin("nothing")
        assert answer["ok"] is False and answer["error"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(relay.admin_socket)
        file = sock.makefile("rw")
        for number in range(3):
            file.write('{"cmd":"drops"}\n{"cmd":"peers"}\n')
            file.flush()
            assert "records" in json.loads(file.readline())
            assert json.loads(file.readline())["peers"] == []
        sock.sendall(b"x" * 100000)
        eventually(lambda: relay.admin("status")["ok"])
    assert os.stat(relay.admin_socket).st_mode & 0o077 == 0
