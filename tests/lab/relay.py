"""The real viaductd, run in the relay's namespace of a lab."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time

from netns import RELAY_INTERFACE, RELAY_V4, RELAY_V6

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("VIADUCT_BUILD", os.path.join(ROOT, "build")))
VIADUCTD = os.path.join(BUILD, "control", "viaductd")
VIADUCT = os.path.join(BUILD, "client", "viaduct")

PORT = 7740
PATIENCE = 30  # seconds in which all that must happen does, however busy the machine is
CONTROL_V4, CONTROL_V6 = (RELAY_V4, PORT), (RELAY_V6, PORT)
# of a sanitized viaductd: what leaks in the libraries under it; and freed memory goes back soon, so
# that what grows can be told
ENVIRONMENT = {"LSAN_OPTIONS": f"suppressions={ROOT}/tests/lsan.supp:print_suppressions=0",
               **os.environ,
               "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=4"}
with open(VIADUCTD, "rb") as _binary:
    SANITIZED = b"__asan_init" in _binary.read()
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|runtime error:")
LOGFMT = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


def eventually(condition, seconds=PATIENCE, message="it didn't happen"):
    """Waits until condition() is true and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, message() if callable(message) else message
        time.sleep(0.01)


def yaml_text(config):
    """JSON's values are YAML's."""
    return "".join(f"{section}:\n" + "".join(f"  {key}: {json.dumps(value)}\n"
                                             for key, value in fields.items())
                   for section, fields in config.items() if fields)


def default_config(federation, directory):
    return {
        "tls": {"certificate": federation.relay.certificate, "key": federation.relay.key,
                "ca": federation.trust},
        "control": {"listen": [f"{RELAY_V4}:{PORT}", f"[{RELAY_V6}]:{PORT}"],
                    "admin": os.path.join(directory, "viaduct.sock")},
        "data": {"interface": RELAY_INTERFACE, "driver": "af_xdp", "port": PORT, "workers": 1},
        "session": {"max": 1000},
        "log": {"level": "info"},
    }


def nonzero(counts):
    return {reason: count for reason, count in counts.items() if count}


def since(now, before):
    return nonzero({reason: now[reason] - before.get(reason, 0) for reason in now})


class Ledger:
    """An answer to `drops`."""

    def __init__(self, answer):
        self.answer = answer
        self.records = answer["records"]
        self.messages = answer["messages"]

    def balanced(self):
        records, messages = self.records, self.messages
        return (records["received"] == records["opened"] + sum(records["dropped"].values())
                and messages["opened"] + messages["made"] + messages["copies"]
                == messages["delivered"] + messages["consumed"]
                + sum(messages["dropped"].values()))

    def dropped_since(self, before):
        return (since(self.records["dropped"], before.records["dropped"]),
                since(self.messages["dropped"], before.messages["dropped"]))

    def __sub__(self, before):
        """Both ledgers' differences, reasons as "dropped": {reason: count}, zeros left out."""
        def difference(now, then):
            return {key: since(value, then[key]) if key == "dropped" else value - then[key]
                    for key, value in now.items()}
        return (difference(self.records, before.records),
                difference(self.messages, before.messages))


class Relay:
    def __init__(self, lab, federation, directory, environment=None, **sections):
        """`sections` go over the default configuration as in configure()."""
        self.lab = lab
        self.directory = str(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.config = default_config(federation, self.directory)
        self.file = os.path.join(self.directory, "viaductd.yaml")
        self.log_file = os.path.join(self.directory, "viaductd.log")
        self.process = None
        self.environment = {**ENVIRONMENT, **(environment or {})}
        self.configure(**sections)
        self.admin_socket = self.config["control"]["admin"]

    def configure(self, **sections):
        """Writes its file, changed in these sections field by field; None takes a field out."""
        for section, fields in sections.items():
            fields = {**self.config.get(section, {}), **fields}
            self.config[section] = {key: value for key, value in fields.items()
                                    if value is not None}
        with open(self.file, "w") as file:
            file.write(yaml_text(self.config))

    def reload(self, **sections):
        """Changes its configuration while it runs, which must do."""
        self.configure(**sections)
        assert self.admin("reload")["ok"]

    # its process

    def start(self):
        with open(self.log_file, "ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                self.lab.relay_command(VIADUCTD, "-c", self.file), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env=self.environment)

        def ready():
            assert self.process.poll() is None, f"viaductd ended:\n{self.log(begin)}"
            return re.search(r"\bmsg=ready\b", self.log(begin))
        try:
            eventually(ready, message=lambda: f"viaductd isn't ready:\n{self.log(begin)}")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self):
        """Ends it as an operator would, and it must end well."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"viaductd doesn't end on SIGTERM:\n{self.log()}") from None
        assert status == 0, f"viaductd ended with {status}:\n{self.log()}"
        self.check_log()

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def suspended(self):
        """None of its threads runs meanwhile."""
        def stopped(task):
            with open(f"/proc/{self.process.pid}/task/{task}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "T"
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            eventually(lambda: all(map(stopped, os.listdir(f"/proc/{self.process.pid}/task"))))
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def check(self):
        """It runs, and no sanitizer has a complaint."""
        status = self.process.poll()
        assert status is None, f"viaductd ended with {status}:\n{self.log()}"
        self.check_log()

    def check_log(self):
        assert not SANITIZER.search(self.log()), self.log()

    # what it says

    def log(self, begin=0):
        with open(self.log_file, errors="replace") as file:
            file.seek(begin)
            return file.read()

    def log_lines(self, begin=0):
        """The log since `begin` (see log_size) as dictionaries."""
        return [{key: json.loads(value) if value.startswith('"') else value
                 for key, value in LOGFMT.findall(line)}
                for line in self.log(begin).splitlines() if line.startswith("ts=")]

    def said(self, message, begin=0):
        """The lines of the log with this message."""
        return [line for line in self.log_lines(begin) if line["msg"] == message]

    def log_size(self):
        return os.path.getsize(self.log_file)

    def admin(self, request):
        """Asks over the admin socket; `request` is a command or a whole object."""
        if isinstance(request, str):
            request = {"cmd": request}
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(self.admin_socket)
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile() as file:
                return json.loads(file.readline())

    def viaduct(self, *arguments):
        """Runs the tool as an operator does."""
        return subprocess.run((VIADUCT, *arguments, "--socket", self.admin_socket),
                              capture_output=True, text=True, timeout=PATIENCE)

    def events(self):
        """A file of what happens from now on, an event a line."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE)
        sock.connect(self.admin_socket)
        sock.sendall(b'{"cmd":"events"}\n')
        file = sock.makefile()
        sock.close()  # once the file is
        assert json.loads(file.readline()) == {"ok": True}
        return file

    def peers(self):
        return {peer["id"]: peer for peer in self.admin("peers")["peers"]}

    def drops(self):
        return Ledger(self.admin("drops"))

    def ledger(self):
        """Both ledgers, when nothing moves any more; they must balance exactly."""
        last = self.drops()

        def quiet():
            nonlocal last
            before, last = last, self.drops()
            return (before.records, before.messages) == (last.records, last.messages)
        eventually(quiet, message="the relay doesn't become quiet")
        assert last.balanced(), json.dumps(last.answer, indent=1)
        return last

    def expect_drops(self, before, records=None, messages=None):
        """Waits until exactly these have been dropped since `before`."""
        wanted = (records or {}, messages or {})
        eventually(lambda: self.drops().dropped_since(before) == wanted,
                   message=lambda: f"dropped {self.drops().dropped_since(before)}, expected {wanted}")
