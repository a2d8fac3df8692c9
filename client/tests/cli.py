#!/usr/bin/python3
"""The command-line tool against stand-ins for a relay and for its admin socket.

Usage: cli.py VIADUCT STUB EXAMPLE [TEST…]
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

VIADUCT, STUB, EXAMPLE = sys.argv[1:4]
OK, FAILED, USAGE, UNREACHABLE, UNBALANCED = range(5)


def viaduct(*arguments, code=OK, stdin="", environment=None):
    """Runs the tool; returns what it prints, after a look at its exit code."""
    done = subprocess.run([VIADUCT, *arguments], input=stdin, capture_output=True, text=True,
                          timeout=30, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode != code:
        raise AssertionError(f"{arguments}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


class Cert(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.pki = self.directory.name + "/pki"
        self.addCleanup(self.directory.cleanup)

    def text(self, name):
        return subprocess.run(["openssl", "x509", "-in", f"{self.pki}/{name}.pem", "-noout",
                               "-text"], capture_output=True, text=True, check=True).stdout

    def test_roles_and_names(self):
        viaduct("cert", "init", self.pki, "--federation", "lab")
        viaduct("cert", "issue", self.pki, "relay", "--relay", "--address", "10.77.0.1",
                "--address", "relay.example")
        viaduct("cert", "issue", self.pki, "a", "b", "--cluster", "team")
        relay, peer = self.text("relay"), self.text("a")
        self.assertIn("URI:spiffe://lab/relay/relay, IP Address:10.77.0.1, DNS:relay.example",
                      relay)
        self.assertIn("TLS Web Server Authentication", relay)
        self.assertIn("URI:spiffe://lab/team/a\n", peer)
        self.assertIn("TLS Web Client Authentication", peer)
        self.assertEqual(os.stat(f"{self.pki}/a.key").st_mode & 0o777, 0o600)
        subprocess.run(["openssl", "verify", "-CAfile", f"{self.pki}/ca.pem",
                        f"{self.pki}/a.pem", f"{self.pki}/b.pem", f"{self.pki}/relay.pem"],
                       capture_output=True, check=True)

    def test_many(self):
        viaduct("cert", "init", self.pki, "--federation", "lab")
        made = json.loads(viaduct("cert", "issue", self.pki, "--count", "20", "--json"))
        self.assertEqual(made["names"], [f"peer-{i}" for i in range(1, 21)])
        self.assertIn("URI:spiffe://lab/default/peer-20\n", self.text("peer-20"))

    def test_nothing_is_overwritten(self):
        viaduct("cert", "init", self.pki, "--federation", "lab")
        viaduct("cert", "init", self.pki, "--federation", "lab", code=FAILED)
        viaduct("cert", "issue", self.pki, "a")
        before = self.text("a")
        viaduct("cert", "issue", self.pki, "a", code=FAILED)
        self.assertEqual(self.text("a"), before)
        viaduct("cert", "issue", self.pki, "a", "--force", "--days", "-0.5")
        self.assertNotEqual(self.text("a"), before)
        expired = subprocess.run(["openssl", "x509", "-in", f"{self.pki}/a.pem", "-checkend", "0"],
                                 capture_output=True, check=False)
        self.assertEqual(expired.returncode, 1)

    def test_misuse(self):
        viaduct("cert", code=USAGE)
        viaduct("cert", "init", self.pki, code=USAGE)
        viaduct("cert", "init", self.pki, "--federation", "../x", code=USAGE)
        viaduct("cert", "issue", self.pki, "a", code=FAILED)  # no CA there
        viaduct("cert", "issue", self.pki, "a", "--cluster", "relay", code=USAGE)


class Talk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        cls.pki = cls.directory.name
        viaduct("cert", "init", cls.pki, "--federation", "lab")
        viaduct("cert", "issue", cls.pki, "relay", "--relay")
        viaduct("cert", "issue", cls.pki, "--count", "2")
        cls.stub = subprocess.Popen([STUB, cls.pki], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, text=True)
        cls.addClassCleanup(cls.stub.communicate)
        cls.relay = cls.stub.stdout.readline().strip()

    def environment(self, name="peer-1"):
        return {"VIADUCT_RELAY": self.relay, "VIADUCT_CA": f"{self.pki}/ca.pem",
                "VIADUCT_CERT": f"{self.pki}/{name}.pem", "VIADUCT_KEY": f"{self.pki}/{name}.key"}

    def run_as_peer(self, *arguments, **keywords):
        return viaduct(*arguments, environment=self.environment(), **keywords)

    def other(self, *arguments):
        """Starts the tool as the second peer and waits until it has joined; returns it."""
        process = subprocess.Popen([VIADUCT, *arguments], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, **self.environment("peer-2")})
        self.addCleanup(process.communicate)
        self.addCleanup(process.terminate)
        first = process.stderr.readline()
        self.assertIn("spiffe://lab/default/peer-2", first)
        return process, first.split("(")[1].split(")")[0]

    def test_ping(self):
        *pongs, total = [json.loads(line) for line in self.run_as_peer(
            "ping", "relay", "-c", "3", "-i", "0.01", "--json").splitlines()]
        self.assertEqual([pong["seq"] for pong in pongs], [1, 2, 3])
        self.assertEqual((total["sent"], total["received"], total["lost"]), (3, 3, 0))
        self.assertLessEqual(total["rtt_us"]["min"], total["rtt_us"]["max"])
        for rtt in [pong["rtt_us"] for pong in pongs] + list(total["rtt_us"].values()):
            self.assertRegex(repr(rtt), r"^\d+\.\d{1,3}$")
        self.assertIn("pong 1 from relay in", self.run_as_peer("ping", "relay", "-c", "1"))

    def test_send_and_listen(self):
        listener, identity = self.other("listen", "--json", "--count", "4")
        self.run_as_peer("send", identity, "hello", "--class", "critical")
        self.run_as_peer("send", identity, "-", stdin="one\ntwo\n\x1b[31m")
        heard = [json.loads(line) for line in listener.communicate(timeout=20)[0].splitlines()]
        self.assertEqual([message["text"] for message in heard], ["hello", "one", "two",
                                                                  "\x1b[31m"])
        self.assertEqual(heard[0]["class"], "critical")
        self.assertEqual(heard[1]["class"], "normal")
        self.assertEqual(listener.returncode, OK)

    def test_no_terminal_is_steered(self):
        listener, identity = self.other("listen", "--count", "1")
        self.run_as_peer("send", identity, "\x1b]0;title\x07")
        self.assertIn("\\x1b]0;title\\x07\n", listener.communicate(timeout=20)[0])

    def test_send_to_nobody(self):
        sent = self.run_as_peer("send", "a" * 26, "x", "--json", code=FAILED).splitlines()
        self.assertEqual(json.loads(sent[0]), {"refused": 1, "reason": "no_route"})
        self.assertEqual(json.loads(sent[1]), {"sent": 1, "refused": 1})

    def test_request_and_reply(self):
        _, identity = self.other("reply", "--exec", "tr a-z A-Z; sleep 0.05")
        self.assertEqual(self.run_as_peer("request", identity, "hello"), "HELLO\n")
        answer = json.loads(self.run_as_peer("request", identity, "again", "--json"))
        self.assertEqual(answer["text"], "AGAIN")
        self.assertEqual(answer["from"], identity)

    def test_echo_and_count(self):
        process, identity = self.other("reply", "--count", "1")
        self.assertEqual(self.run_as_peer("request", identity, "hello"), "hello\n")
        process.communicate(timeout=20)
        self.assertEqual(process.returncode, OK)

    def test_no_response(self):
        _, identity = self.other("reply", "--exec", "exit 1")
        self.run_as_peer("request", identity, "x", "--timeout", "0.2", code=FAILED)

    def test_no_relay(self):
        environment = {**self.environment(), "VIADUCT_RELAY": "127.0.0.1:1"}
        viaduct("ping", "relay", "-c", "1", code=UNREACHABLE, environment=environment)
        environment["VIADUCT_KEY"] = "/nowhere"
        viaduct("ping", "relay", code=FAILED, environment=environment)

    def test_misuse(self):
        viaduct(code=USAGE)
        viaduct("dance", code=USAGE)
        viaduct("ping", "relay", code=USAGE, environment={"VIADUCT_RELAY": "x:1"})
        self.run_as_peer("ping", code=USAGE)
        self.run_as_peer("ping", "relay", "-c", "many", code=USAGE)
        self.run_as_peer("send", "relay", "x", "--class", "first", code=USAGE)
        self.run_as_peer("listen", "--loud", code=USAGE)

    def test_example(self):
        done = subprocess.run([EXAMPLE, *self.environment().values()], capture_output=True,
                              text=True, timeout=20, check=True)
        self.assertIn("message: hello\n", done.stdout)
        self.assertIn("response: fine\n", done.stdout)


class Help(unittest.TestCase):
    def test_every_command_has_help(self):
        commands = [line.split()[0] for line in viaduct("--help").splitlines()
                    if line.startswith("  ") and line.split()[0].isalpha()]
        self.assertGreaterEqual(len(commands), 14)
        for command in commands:
            self.assertIn(f"Usage: viaduct {command} ", viaduct(command, "--help"))
        self.assertRegex(viaduct("--version"), r"^viaduct \d+\.\d+\.\d+\n$")


class Admin(unittest.TestCase):
    """A socket that gives each question the answer of `answers`."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = self.directory.name + "/admin"
        self.answers = {}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen()
        thread = threading.Thread(target=self.serve)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.listener.shutdown, socket.SHUT_RDWR)

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                self.listener.close()
                return
            with connection, connection.makefile("rw") as file:
                question = json.loads(file.readline())
                answer = self.answers.get(question["cmd"], {"ok": False, "error": "no such"})
                file.write(json.dumps(answer) + "\n")

    def ask(self, *arguments, **keywords):
        return viaduct(*arguments, environment={"VIADUCT_ADMIN": self.path}, **keywords)

    def test_tables(self):
        self.answers["status"] = {
            "ok": True, "name": "spiffe://lab/relay/one", "id": "x" * 26, "version": "0.1.0",
            "pid": 7, "uptime_s": 7300, "driver": "af_xdp", "interface": "eth0",
            "data_port": 7740, "huge_pages": False, "memory_mb": 100,
            "sessions": {"joined": 3, "joining": 1, "max": 100}, "routes": 3,
            "handshakes": {"ok": 5, "failed": 2},
            "workers": [{"core": 2, "queue": 0, "records": 10, "messages": 20,
                         "sleeping": True}]}
        self.answers["peers"] = {"ok": True, "peers": [
            {"id": "y" * 26, "name": "a\x1b[2J", "state": "joined", "epoch": 4, "idle_ms": 1500,
             "cipher": "aes-256-gcm", "address": "10.0.0.1:5", "lanes": {"up": 1, "down": 2}}]}
        self.answers["routes"] = {"ok": True, "routes": [{"id": "y" * 26, "next_hop": "slot 1"}]}
        status = self.ask("status")
        self.assertIn("relay        spiffe://lab/relay/one", status)
        self.assertIn("up 2 h", status)
        self.assertIn("3 joined, 1 joining, at most 100", status)
        self.assertRegex(status, r"2 +0 +10 +20 +sleeps")
        peers = self.ask("peers")
        self.assertRegex(peers, r"10\.0\.0\.1:5 +4 +aes-256-gcm +1/2 +1\.5 s")
        self.assertNotIn("\x1b", peers)
        self.assertRegex(self.ask("routes"), r"y{26}  slot 1")
        self.assertEqual(json.loads(self.ask("routes", "--json")), self.answers["routes"])

    def test_ledgers(self):
        drops = {"ok": True, "foreign": 1,
                 "records": {"received": 10, "opened": 7, "dropped": {"replayed": 2, "bad": 1}},
                 "messages": {"opened": 9, "made": 1, "copies": 0, "delivered": 6,
                              "consumed": 3, "dropped": {"no_route": 1}},
                 "kernel": {"rx_dropped": 0}}
        self.answers["drops"] = drops
        self.assertEqual(self.ask("drops").count("  balances\n"), 2)
        self.assertEqual(json.loads(self.ask("drops", "--json"))["balanced"],
                         {"records": True, "messages": True})
        drops["messages"]["consumed"] = 2
        self.assertIn("DOES NOT BALANCE", self.ask("drops", code=UNBALANCED))

    def test_trouble(self):
        self.ask("status", code=FAILED)
        viaduct("status", "--socket", "/nowhere", code=UNREACHABLE)
        self.ask("status", "now", code=USAGE)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
