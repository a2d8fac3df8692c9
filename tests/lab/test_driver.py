"""The drivers, and that the kernel keeps what is its own."""

import random
import socket
import struct
import time

import pytest

from netns import (PEER_V4, PEERS_INTERFACE, RELAY_INTERFACE, RELAY_V4, RELAY_V6, run)
from peer import PING, Unreachable
from relay import CONTROL_V4, CONTROL_V6, PORT, eventually

ETH_P_ALL = 3
both_drivers = pytest.mark.parametrize("driver", ["af_xdp", "af_packet"])


class Capture:
    """All that arrives in the peers' namespace."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        self.socket.bind((PEERS_INTERFACE, ETH_P_ALL))
        self.socket.setblocking(False)

    def frames(self):
        while True:
            try:
                frame, address = self.socket.recvfrom(65536)
            except BlockingIOError:
                return
            if address[2] != socket.PACKET_OUTGOING:
                yield frame

    def datagrams(self):
        """UDP over IPv4 from the data port, from the IP header on."""
        return [frame[14:] for frame in self.frames()
                if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP
                and int.from_bytes(frame[34:36], "big") == PORT]

    def unreachables(self):
        """ICMP and ICMPv6 destination unreachable."""
        return [frame for frame in self.frames()
                if (frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 3)
                or (frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 1)]


@pytest.fixture
def capture(relay):
    capture = Capture()
    yield capture
    capture.socket.close()


def converse(left, right):
    for turn in range(20):
        right.wait_tag(left.send(right.identity.id, bytes(turn * 50)))
        left.wait_tag(right.send(left.identity.id, bytes(turn * 50)))


@both_drivers
def test_driver(relay, driver, join):
    status = relay.admin("status")
    assert status["driver"] == driver
    assert status["interface"] == RELAY_INTERFACE
    assert status["data_port"] == PORT
    converse(join("v4"), join("v6", control=CONTROL_V6))


@both_drivers
def test_udp_checksums_for_who_asks(relay, join, capture):
    asks, asks_not = join("alice", checksum=True), join("bob")
    converse(asks, asks_not)
    counts = {peer.lane_sockets[0].getsockname()[1]: 0 for peer in (asks, asks_not)}
    for packet in capture.datagrams():
        port, length, found = struct.unpack("!HHH", packet[22:28])
        counts[port] += 1
        if port == asks_not.lane_sockets[0].getsockname()[1]:
            assert found == 0
        else:
            pseudo = packet[12:20] + struct.pack("!HH", socket.IPPROTO_UDP, length)
            assert found and checksum(pseudo + packet[20:20 + length] + bytes(length % 2)) == 0
    assert min(counts.values()) >= 20


@both_drivers
def test_trains_where_the_port_takes_them(driver, join):
    assert join("alice").welcome["trains"] == (driver == "af_xdp")


@both_drivers
@pytest.mark.parametrize("polling", ["busy"])
def test_busy_polling(relay, driver, polling, join):
    converse(join("alice"), join("bob"))
    time.sleep(0.2)
    assert not any(worker["sleeping"] for worker in relay.admin("status")["workers"])


@both_drivers
def test_kernel_keeps_ping_arp_and_tcp(relay, neighbours):
    for address in RELAY_V4, RELAY_V6:
        run("ip", "neigh", "flush", "dev", PEERS_INTERFACE)
        run("ping", "-c", "2", "-i", "0.05", "-W", "2", address)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((RELAY_V4, 9), timeout=3)
    for control in CONTROL_V4, CONTROL_V6:
        socket.create_connection(control, timeout=3).close()


@both_drivers
def test_kernel_never_answers_for_the_data_port(relay, neighbours, capture):
    before = relay.drops()
    for address in RELAY_V4, RELAY_V6:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            for size in 0, 1, 15, 56, 1000:
                sock.sendto(bytes(size), (address, PORT))
    relay.expect_drops(before, records={"truncated": 6, "version": 4})
    assert capture.unreachables() == []
    # as it does for any other port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"?", (RELAY_V4, PORT + 1))
    eventually(capture.unreachables)


@both_drivers
@pytest.mark.parametrize("control", [CONTROL_V4, CONTROL_V6], ids=["v4", "v6"])
def test_packets_on_the_wire(join, capture, control):
    """At most 1,280 bytes of IP, DF set, and a UDP checksum that is right, or none over IPv4."""
    alice = join("alice", control=control)
    for size in range(0, 1161, 29):
        alice.wait_tag(alice.send(alice.identity.id, bytes(size)))
    seen = []
    for frame in capture.frames():
        four = frame[12:14] == b"\x08\x00"
        packet = frame[14:]
        if packet[9 if four else 6] != socket.IPPROTO_UDP:
            continue
        addresses, udp = (packet[12:20], packet[20:]) if four else (packet[8:40], packet[40:])
        if four:
            assert packet[6:8] == b"\x40\x00"  # DF, no fragment
            assert struct.unpack(">H", packet[2:4])[0] == len(packet)
            assert checksum(packet[:20]) == 0
        assert len(packet) <= 1280
        assert struct.unpack(">H", udp[4:6])[0] == len(udp)
        pseudo = addresses + struct.pack(">HH", socket.IPPROTO_UDP, len(udp))
        assert (four and udp[6:8] == b"\0\0") or checksum(pseudo + udp + bytes(len(udp) % 2)) == 0
        seen.append(len(packet))
    assert len(seen) >= 40 and max(seen) > 1200


@both_drivers
def test_kill_and_start_again(relay, join, driver):
    alice, bob = join("alice"), join("bob")
    converse(alice, bob)
    for turn in range(2):
        relay.kill()
        relay.start()
        assert relay.admin("status")["driver"] == driver
        assert relay.peers() == {}
        converse(alice.connect(), bob.connect())
    run("ping", "-c", "1", "-W", "2", RELAY_V4)


@both_drivers
def test_sessions_of_before_get_no_answer(relay, join):
    """After a restart the old sessions are unknown; their records are dropped in silence."""
    alice = join("alice")
    relay.stop()
    relay.start()
    before = relay.drops()
    alice.send(alice.relay, kind=PING)
    relay.expect_drops(before, records={"session_unknown": 1})
    alice.poll(0.05)
    assert alice.inbox == [] and alice.bad == []
    alice.connect()
    alice.wait_tag(alice.send(alice.relay, kind=PING))


@both_drivers
@pytest.mark.relay(queues=2, data={"workers": 2})
def test_two_workers(relay, join):
    before = relay.admin("status")["workers"]
    assert [worker["queue"] for worker in before] == [0, 1]
    peers = [join(f"peer-{number}", lanes=2, spread=True) for number in range(12)]
    for left in peers:
        for lane in range(2):
            for right in peers:
                right.wait_tag(left.send(right.identity.id, lane=lane))
    after = relay.admin("status")["workers"]
    assert all(now["records"] > then["records"] for now, then in zip(after, before))


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def udp_frame(destination, payload, fragment=0, options=b"", udp_length=None, vlan=None):
    """An Ethernet frame with UDP to the data port in it, and what may be odd about it."""
    udp = struct.pack(">HHHH", 12345, PORT, len(payload) + 8 if udp_length is None else udp_length,
                      0) + payload
    header = struct.pack(">BBHHHBBH4s4s", 0x45 + len(options) // 4, 0,
                         20 + len(options) + len(udp), 1, fragment, 64, 17, 0,
                         socket.inet_aton(PEER_V4), socket.inet_aton(RELAY_V4)) + options
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    tag = struct.pack(">HH", 0x8100, vlan) if vlan is not None else b""
    return destination + bytes(6) + tag + b"\x08\x00" + header + udp


@both_drivers
def test_strange_frames(relay, neighbours, capture):
    """Frames that are cut, fragmented, or lie about lengths do no harm."""
    mac = bytes.fromhex(run(*relay.lab.relay_command(
        "cat", f"/sys/class/net/{RELAY_INTERFACE}/address")).replace(":", ""))
    payload = b"\x10\x40" + bytes(98)
    whole = udp_frame(mac, payload)
    odd = [whole[:size] for size in range(14, len(whole), 3)]
    odd += [udp_frame(mac, payload, udp_length=length) for length in (0, 1, 7, 8, 9, 2000, 65535)]
    odd += [udp_frame(mac, payload, fragment=fragment) for fragment in (0x2000, 0x2001, 1, 185)]
    odd += [udp_frame(mac, payload, options=bytes([1] * size)) for size in (4, 8, 40)]
    odd += [udp_frame(mac, payload, vlan=vlan) for vlan in (0, 1, 4095)]
    noise = random.Random(1)
    for number in range(500):
        frame = bytearray(whole)
        for change in range(noise.randrange(1, 4)):
            frame[noise.randrange(12, len(frame))] = noise.randrange(256)
        odd.append(bytes(frame))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((PEERS_INTERFACE, 0))
        for frame in odd:
            sock.send(frame)
    before = relay.drops()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((PEERS_INTERFACE, 0))
        sock.send(whole)
    eventually(lambda: relay.drops().records["received"] > before.records["received"])


def test_idle_relay_burns_nothing(relay, join):
    """With adaptive polling the workers sleep when there is nothing to do."""
    join("alice")

    def cpu():
        with open(f"/proc/{relay.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])  # utime and stime, in ticks of 10 ms
    eventually(lambda: all(w["sleeping"] for w in relay.admin("status")["workers"]))

    def rests():
        start = cpu()
        time.sleep(1)
        return cpu() - start <= 10
    # a worker that doesn't sleep takes its core in each second
    eventually(rests)


def test_peer_that_cannot_reach_the_data_port(relay, make_peer, neighbours):
    """Joined over TCP, but UDP is dropped on the way: the client says so within 3 s."""
    alice = make_peer("alice")
    alice.join()
    port = alice.lane_sockets[0].getsockname()[1]
    run("nft", "add", "table", "inet", "unreachable")
    try:
        run("nft", "add", "chain", "inet", "unreachable", "out",
            "{ type filter hook output priority 0; }")
        run("nft", "add", "rule", "inet", "unreachable", "out", "udp", "sport", str(port), "drop")
        with pytest.raises((Unreachable, PermissionError)):
            alice.reach(3)
    finally:
        run("nft", "delete", "table", "inet", "unreachable")
    alice.reach()
