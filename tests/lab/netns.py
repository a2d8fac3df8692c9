"""Two network namespaces, a relay's and its peers', joined by veth.

The test process itself lives in the peers' namespace (`enter`), with its threads and children;
whatever belongs to the relay is started through `relay_command`.
"""

import ctypes
import json
import os
import subprocess

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

RELAY_INTERFACE, PEERS_INTERFACE = "vrelay", "vpeers"
RELAY_V4, RELAY_V6 = "10.77.0.1", "fd77::1"
PEER_V4, PEER_V6 = "10.77.0.2", "fd77::2"
ROAMING_V4 = ["10.77.0.3", "10.77.0.4", "10.77.0.5"]  # more addresses of the peers' host
VICTIM_V4 = "10.77.0.6"  # another one: somebody who never asked for anything


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


class Lab:
    def __init__(self, name, queues=1):
        self.queues = queues
        self.relay = f"{name}-relay"
        self.peers = f"{name}-peers"
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)

    def up(self):
        queues = ("numrxqueues", str(self.queues), "numtxqueues", str(self.queues))
        for namespace in (self.relay, self.peers):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", self.relay, "link", "add", "name", RELAY_INTERFACE, *queues, "type", "veth",
            "peer", "name", PEERS_INTERFACE, "netns", self.peers, *queues)
        for namespace, interface, v4, v6 in (
                (self.relay, RELAY_INTERFACE, [RELAY_V4], RELAY_V6),
                (self.peers, PEERS_INTERFACE, [PEER_V4, *ROAMING_V4, VICTIM_V4], PEER_V6)):
            for address in v4:
                run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", interface)
            run("ip", "-n", namespace, "address", "add", f"{v6}/64", "dev", interface, "nodad")
            run("ip", "-n", namespace, "link", "set", interface, "up")
        # veth holds 256 packets and drops what comes on top, whosever it is, unless a queue in
        # front of it can be told to wait (since Linux 6.16)
        run("tc", "-n", self.peers, "qdisc", "add", "dev", PEERS_INTERFACE, "root", "pfifo",
            "limit", "10000")

    def down(self):
        self.leave()
        os.close(self.home)
        for namespace in (self.relay, self.peers):
            subprocess.run(("ip", "netns", "del", namespace), check=False)

    def enter(self):
        """Moves this thread into the peers' namespace."""
        with open(f"/run/netns/{self.peers}") as file:
            self._setns(file.fileno())

    def leave(self):
        self._setns(self.home)

    @staticmethod
    def _setns(descriptor):
        if libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    def relay_command(self, *command):
        return ("ip", "netns", "exec", self.relay, *command)

    def relay_counter(self, interface=RELAY_INTERFACE):
        links = json.loads(run("ip", "-n", self.relay, "-s", "-j", "link", "show", interface))
        return links[0]["stats64"]
