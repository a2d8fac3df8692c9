"""Records that are wrong in some way: dropped, counted under their own reason, never answered."""

import random
import socket
import struct

import pytest

from netns import PEER_V4
from peer import CONTROL_CLASS, FLAG_VIA, NORMAL, PING, SEND, Header, Message
from relay import CONTROL_V4, eventually

WINDOW = 2048       # the relay's; of it
WINDOW_SURE = 1984  # are always valid
LAST = (1 << 56) - 1


class Stranger:
    """A socket that throws datagrams at the data port and must hear nothing."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((PEER_V4, 0))
        self.socket.connect(CONTROL_V4)

    def throw(self, *datagrams):
        for datagram in datagrams:
            self.socket.send(datagram)

    def assert_silence(self, relay_pinger):
        """Whatever the relay has to say to us it says before it answers a later ping."""
        for turn in range(3):
            relay_pinger.wait_tag(relay_pinger.send(relay_pinger.relay, kind=PING))
        with pytest.raises(BlockingIOError):  # ConnectionRefusedError: the kernel answered
            self.socket.recv(65536, socket.MSG_DONTWAIT)
        self.socket.close()


@pytest.fixture
def stranger():
    return Stranger()


@pytest.fixture
def alice(join):
    return join("alice")


@pytest.fixture
def bob(join):
    return join("bob")


@pytest.fixture
def dropped(relay, alice, bob, stranger, neighbours):
    """Throws datagrams from a strange socket; each must be dropped for this reason, unanswered."""
    def check(reason, *datagrams):
        before = relay.drops()
        stranger.throw(*datagrams)
        relay.expect_drops(before, records={reason: len(datagrams)})
        stranger.assert_silence(bob)
        alice.poll(0)
        assert alice.inbox == [] and bob.inbox == []
        # and the session it pretended to be of is unharmed
        bob.wait_tag(alice.send(bob.identity.id))
    return check


def good(alice, bob, lane=0):
    return alice.seal([Message(SEND, bob.identity.id, b"payload")], lane)


def test_truncated(alice, bob, dropped):
    record = good(alice, bob)
    dropped("truncated", *[record[:size] for size in range(56)])


def test_cut_off(alice, bob, dropped):
    record = good(alice, bob)
    dropped("auth", *[record[:size] for size in range(56, len(record))])


def test_trailing_bytes(alice, bob, dropped):
    record = good(alice, bob)
    dropped("auth", *[record + bytes(size) for size in (1, 16, 100)])


def test_oversized(alice, bob, dropped):
    """Larger than mtu - 48, though a path would carry it."""
    plaintext = Message(SEND, bob.identity.id, bytes(1280 - 48 - 32 - 24 + 1)).pack()
    dropped("oversized", alice.seal_raw(alice.header(), plaintext))


def test_largest_is_taken(alice, bob):
    payload = bytes(1280 - 48 - 32 - 24)  # without a via there is room for 16 more
    bob.wait_tag(alice.send(bob.identity.id, payload))


def test_unknown_version(alice, bob, dropped):
    record = good(alice, bob)
    dropped("version", *[bytes([first]) + record[1:] for first in range(256) if first != 0x10])


def test_reserved_bits(alice, bob, dropped):
    record = good(alice, bob)
    datagrams = []
    for byte, bits in (1, range(5)), (2, range(8)), (3, range(8)):
        for bit in bits:
            changed = bytearray(record)
            changed[byte] |= 1 << bit
            datagrams.append(bytes(changed))
    dropped("reserved", *datagrams)


def test_reserved_bit_though_authentic(alice, dropped):
    header = bytearray(alice.header().pack())
    header[2] = 1
    plaintext = Message(PING, alice.relay).pack()
    dropped("reserved", alice.epoch.up.seal(bytes(header), plaintext))


def with_index(record, index):
    return record[:4] + struct.pack(">I", index) + record[8:]


def test_unknown_session(alice, bob, dropped):
    record = good(alice, bob)
    dropped("session_unknown", *[with_index(record, alice.index & 0xfff00000 | slot)
                                 for slot in (2000, 4095, 0xffffe, 0xfffff)])


def test_stale_session(alice, bob, dropped):
    record = good(alice, bob)
    dropped("session_stale", *[with_index(record, (alice.index + (ahead << 20)) & 0xffffffff)
                               for ahead in (1, 2, 0xfff)])


def test_session_after_leaving(alice, bob, relay, stranger, neighbours):
    record = good(alice, bob)
    alice.leave()
    before = relay.drops()
    stranger.throw(record)
    relay.expect_drops(before, records={"session_stale": 1})
    stranger.assert_silence(bob)


def test_flipped_bit_in_each_byte(relay, alice, bob, stranger, neighbours):
    alice.sequences[0] = 512  # not yet seen, and not with the lowest bit of any byte flipped either
    record = good(alice, bob)
    flips = {1: 0x40, 5: 0x08, 6: 0x80, 7: 0x80}  # class, and slots that don't exist
    before = relay.drops()
    for byte in range(len(record)):
        changed = bytearray(record)
        changed[byte] ^= flips.get(byte, 1)
        stranger.throw(bytes(changed))

    def reasons():
        records, messages = relay.drops().dropped_since(before)
        records["session"] = (records.pop("session_unknown", 0)
                              + records.pop("session_stale", 0))
        return records, messages
    wanted = {"version": 1, "reserved": 2, "session": 4, "lane": 1, "auth": len(record) - 8}
    eventually(lambda: reasons() == (wanted, {}), message=lambda: (reasons(), wanted))
    stranger.assert_silence(bob)
    alice.transmit(record)
    bob.wait(lambda message: message.payload == b"payload")


def test_replayed(alice, bob, dropped):
    record = good(alice, bob)
    alice.transmit(record)
    bob.wait(lambda message: message.payload == b"payload")
    dropped("replay_seen", *[record] * 10)


def test_far_below_window(alice, bob, dropped):
    old = [good(alice, bob) for number in range(5)]
    alice.sequences[0] += WINDOW
    bob.wait_tag(alice.send(bob.identity.id))
    dropped("replay_old", *old)


def test_lower_edge_of_window(alice, bob, relay):
    old = [good(alice, bob) for number in range(3)]
    alice.sequences[0] = old_sequence(old[1]) + WINDOW_SURE - 1
    bob.wait_tag(alice.send(bob.identity.id))
    before = relay.drops()
    alice.transmit(old[1])
    alice.transmit(old[2])
    for number in range(2):
        bob.wait(lambda message: message.payload == b"payload")
    alice.sequences[0] += WINDOW - WINDOW_SURE
    bob.wait_tag(alice.send(bob.identity.id))
    alice.transmit(old[0])
    relay.expect_drops(before, records={"replay_old": 1})


def old_sequence(record):
    return struct.unpack(">Q", record[8:16])[0] & LAST


def test_far_above_window(alice, bob, relay, stranger, neighbours):
    """A leap forward that is not authentic moves nothing; an authentic one is the peer's right."""
    record = good(alice, bob)
    before = relay.drops()
    for ahead in WINDOW, 1 << 30, LAST - old_sequence(record):
        stranger.throw(record[:8] + struct.pack(">Q", old_sequence(record) + ahead) + record[16:])
    relay.expect_drops(before, records={"auth": 3})
    stranger.assert_silence(bob)
    alice.transmit(record)
    bob.wait(lambda message: message.payload == b"payload")
    alice.sequences[0] += 1 << 40
    bob.wait_tag(alice.send(bob.identity.id))


def test_last_sequence(alice, bob):
    alice.sequences[0] = LAST - 100
    alice.transmit(alice.seal_raw(alice.header()._replace(sequence=LAST),
                                  Message(SEND, bob.identity.id, b"last").pack()))
    bob.wait(lambda message: message.payload == b"last")


def test_lane_not_agreed(alice, bob, dropped):
    plaintext = Message(SEND, bob.identity.id).pack()
    dropped("lane", *[alice.seal_raw(Header(NORMAL, 0, alice.index, lane, 10), plaintext)
                      for lane in (1, 2, 7, 8, 255)])


def test_other_key_phase(alice, bob, dropped):
    plaintext = Message(SEND, bob.identity.id).pack()
    dropped("key_phase", alice.seal_raw(alice.header()._replace(phase=1), plaintext))


def test_key_of_somebody_else(alice, bob, dropped):
    header = bob.header()._replace(index=alice.index, sequence=100)
    dropped("auth", bob.epoch.up.seal(header.pack(), Message(SEND, bob.identity.id).pack()))


def test_key_of_other_direction(alice, bob, dropped):
    header = alice.header()
    dropped("auth", alice.epoch.down.seal(header.pack(), Message(SEND, bob.identity.id).pack()))


def lies(bob):
    whole = Message(SEND, bob.identity.id, b"payload", 7).pack()
    ping = Message(PING, bob.relay).pack()

    def length(message, size):
        return struct.pack(">H", size) + message[2:]
    yield from (length(whole, size) for size in (0, 6, 8, 1000, 65535))
    yield whole + ping[:-1]
    yield whole + bytes(23)
    yield ping + length(whole, 65535)
    yield whole[:23] + bytes(1) + bytes(1)
    for flags in 0x4, 0x8, 0xc:
        yield Message(SEND, bob.identity.id, b"payload", flags=flags).pack()
    yield Message(SEND, bob.identity.id, b"payload", flags=FLAG_VIA, via=bytes(16)).pack()
    yield Message(SEND, bob.identity.id, b"", flags=FLAG_VIA).pack()
    yield whole + Message(SEND, bob.identity.id, b"", flags=0x8).pack()


def test_lying_messages(relay, alice, bob, neighbours):
    """Authentic, but wrong inside: the whole record goes, also the good messages before."""
    before = relay.drops()
    plaintexts = list(lies(bob))
    for plaintext in plaintexts:
        alice.transmit(alice.seal_raw(alice.header(), plaintext))
    relay.expect_drops(before, records={"malformed": len(plaintexts)})
    for peer in alice, bob:
        peer.wait_tag(peer.send(peer.relay, kind=PING))
        assert peer.inbox == []


def test_control_records_are_for_the_relay(relay, alice, bob, neighbours):
    """What else travels in a record of class control isn't forwarded, and its sender is told."""
    before = relay.drops()
    tag = alice.send(bob.identity.id, b"urgent", klass=CONTROL_CLASS)
    assert alice.wait_tag(tag).reason == "unsupported"
    alice.send(bob.identity.id, kind=PING, klass=CONTROL_CLASS)
    relay.expect_drops(before, messages={"unsupported": 2})
    assert bob.inbox == []


def test_noise(relay, bob, stranger, neighbours):
    """Datagrams without sense in them: all dropped, all counted."""
    noise = random.Random(7740)
    before = relay.drops()
    for number in range(2000):
        datagram = noise.randbytes(noise.randrange(0, 1400))
        stranger.throw(datagram if number % 2 else b"\x10\x40\x00\x00" + datagram)
    eventually(lambda: sum(relay.drops().dropped_since(before)[0].values()) == 2000)
    stranger.assert_silence(bob)
