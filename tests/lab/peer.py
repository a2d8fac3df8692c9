"""A Viaduct peer, written from docs/protocol.md alone, as a second opinion on the relay.

It shares no code with the C side: TLS and its exporter come from pyOpenSSL, the AEADs from
python3-cryptography. Everything happens in the caller's thread: `poll` handles what has arrived.
It also does what no well-behaved peer would, where a test asks for it: `seal_raw`, `transmit`.
"""

import base64
import hashlib
import hmac
import json
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from OpenSSL import SSL

ALPN = b"viaduct/1"
HELLO = b'{"viaduct": 1, "ciphers": ["aes-256-gcm"]}\n'  # the least that there is to say
EXPORT_DATA = b"EXPORTER-viaduct-data"
EXPORT_REKEY = b"EXPORTER-viaduct-rekey"
EXPORT_BINDING = b"EXPORTER-Channel-Binding"
UP, DOWN, REKEY_SECRET = 0, 1, 2
AEADS = {"aes-256-gcm": (2, AESGCM), "chacha20-poly1305": (29, ChaCha20Poly1305)}

BULK, NORMAL, CRITICAL, CONTROL_CLASS = range(4)
SEND, REQUEST, RESPONSE, PUBLISH, PING, PONG, CONTROL = range(1, 8)
ERROR = 0x80
REASONS = {1: "no_route", 2: "too_large", 3: "hop_limit", 4: "unsupported", 5: "tx_full",
           6: "key_exhausted", 7: "no_buffer", 8: "policy", 9: "no_instance",
           10: "instance_gone", 11: "timeout", 12: "busy", 16: "publisher_rate",
           17: "topic_rate", 18: "topic_full", 24: "rate"}
FLAG_VIA, FLAG_SEALED = 1, 2
FLAG_KEY = FLAG_FAILED = 4  # of sends and requests; of responses

VERSION_TYPE = 0x10
BUNDLE = 0x11  # version and type of a datagram with several records
RECORD_HEADER, TAG_SIZE, MESSAGE_HEADER, ID_SIZE = 16, 16, 24, 16
HOP_LIMIT = 8
WINDOW = 1024
OLD_EPOCH_SECONDS = 5
PATIENCE = 30  # seconds to wait for what must come, however busy the machine is
OWN_PING = 0xffffffff  # the tag of pings that the session sends for itself


class Refused(Exception):
    """The relay answered hello with an error; `answer` is its JSON."""

    def __init__(self, answer):
        super().__init__(f"refused: {answer}")
        self.answer = answer


class Unreachable(Exception):
    """Joined, but nothing sealed came back: the data port can't be reached."""


class Malformed(Exception):
    """Bytes that the protocol doesn't allow."""


class KeyExhausted(Exception):
    """A lane has used its share of key_records."""


# Section 1: identities

def id_of(certificate):
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()[:ID_SIZE]


def id_text(peer_id):
    return base64.b32encode(peer_id).decode().lower().rstrip("=")


def id_parse(text):
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


def topic_id(name):
    return hashlib.sha256(b"viaduct topic " + name.encode()).digest()[:ID_SIZE]


def name_of(certificate):
    """The only URI SAN, else the CN."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    if len(uris) > 1:
        raise Malformed("several URI SANs")
    if uris:
        return uris[0]
    return certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value


def extended_usages(certificate):
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


@dataclass
class Identity:
    """A certificate and its key, as PEM files."""
    certificate: str
    key: str

    def __post_init__(self):
        with open(self.certificate, "rb") as file:
            self.x509 = x509.load_pem_x509_certificate(file.read())
        self.id = id_of(self.x509)
        self.text = id_text(self.id)
        try:
            self.name = name_of(self.x509)
        except Malformed:  # a bad certificate, for a test
            self.name = ""
        spiffe = self.name.startswith("spiffe://")
        self.federation = self.name.split("/")[2] if spiffe else None


# Section 3: keys

def export_context(aead_id, direction, index, epoch, peer, relay):
    return struct.pack(">BHBII", 1, aead_id, direction, index, epoch) + peer + relay


class Key:
    """One direction of one epoch."""

    def __init__(self, cipher, exported):
        self.aead = AEADS[cipher][1](exported[:32])
        self.iv = exported[32:]
        self.name = hashlib.sha256(exported).digest()[:8]  # for telling keys apart

    def nonce(self, header):
        return self.iv[:4] + bytes(a ^ b for a, b in zip(self.iv[4:], header[8:16]))

    def seal(self, header, plaintext):
        return header + self.aead.encrypt(self.nonce(header), plaintext, header)

    def open(self, record):
        header = record[:RECORD_HEADER]
        return self.aead.decrypt(self.nonce(header), record[RECORD_HEADER:], header)


class Epoch:
    """The keys of a session between two rekeys, exported from one TLS connection."""

    def __init__(self, number, cipher, export, index, peer, relay):
        def context(direction):
            return export_context(AEADS[cipher][0], direction, index, number, peer, relay)

        self.number = number
        self.up = Key(cipher, export(EXPORT_DATA, 44, context(UP)))
        self.down = Key(cipher, export(EXPORT_DATA, 44, context(DOWN)))
        self.rekey_secret = export(EXPORT_REKEY, 32, context(REKEY_SECRET))


def rekey_input(binding, index, epoch, prefix=b"viaduct rekey"):
    return prefix + binding + struct.pack(">II", index, epoch)


def rekey_mac(secret, binding, index, epoch, prefix=b"viaduct rekey"):
    return hmac.digest(secret, rekey_input(binding, index, epoch, prefix), "sha256")


# Section 4: records

class Header(NamedTuple):
    klass: int
    phase: int
    index: int
    lane: int
    sequence: int

    def pack(self):
        return struct.pack(">BBHIQ", VERSION_TYPE, self.klass << 6 | self.phase << 5, 0,
                           self.index, self.lane << 56 | self.sequence)


def header_parse(record):
    if len(record) < RECORD_HEADER + TAG_SIZE + MESSAGE_HEADER:
        raise Malformed("a truncated record")
    version, flags, reserved, index, counter = struct.unpack(">BBHIQ", record[:RECORD_HEADER])
    if version != VERSION_TYPE:
        raise Malformed(f"version and type {version:#x}")
    if flags & 0x1f or reserved:
        raise Malformed("a reserved bit of the header")
    return Header(flags >> 6, flags >> 5 & 1, index, counter >> 56, counter & (1 << 56) - 1)


def bundle_parse(datagram):
    """The records of a datagram that holds several."""
    records, at = [], 2
    if datagram[1]:
        raise Malformed("a reserved byte of a bundle")
    while at < len(datagram):
        length, = struct.unpack_from(">H", datagram, at)
        records.append(datagram[at + 2:at + 2 + length])
        if len(records[-1]) != length:
            raise Malformed("a truncated bundle")
        at += 2 + length
    return records


def bundle_pack(records):
    return struct.pack(">BB", BUNDLE, 0) + b"".join(
        struct.pack(">H", len(record)) + record for record in records)


class Window:
    """What has been received on one lane, RFC 6479 in spirit: a bit for each sequence."""

    def __init__(self):
        self.top = -1
        self.bits = 0  # bit n is sequence top - n

    def fresh(self, sequence):
        behind = self.top - sequence
        return behind < 0 or (behind < WINDOW and not self.bits >> behind & 1)

    def mark(self, sequence):
        ahead = sequence - self.top
        if ahead > 0:
            self.bits = (self.bits << min(ahead, WINDOW) | 1) & (1 << WINDOW) - 1
            self.top = sequence
        else:
            self.bits |= 1 << -ahead


# Section 5: messages

@dataclass
class Message:
    kind: int
    address: bytes
    payload: bytes = b""
    tag: int = 0
    hop_limit: int = HOP_LIMIT
    flags: int = 0
    via: bytes = b""
    record: Header = None  # of a received one: the record's header,
    local: tuple = None    # and the address that it came to

    def pack(self):
        return struct.pack(">HBBI", len(self.payload), self.kind,
                           self.hop_limit << 4 | self.flags,
                           self.tag) + self.address + self.via + self.payload

    @property
    def reason(self):
        """The name of an error's reason, None for every other kind."""
        return REASONS.get(self.kind & 0x7f, "unknown") if self.kind & ERROR else None


def messages_parse(plaintext):
    messages = []
    at = 0
    while at < len(plaintext):
        if len(plaintext) - at < MESSAGE_HEADER:
            raise Malformed("a message's header is cut off")
        length, kind, hops, tag = struct.unpack(">HBBI", plaintext[at:at + 8])
        flags = hops & 0xf
        if flags & ~(FLAG_VIA | FLAG_SEALED | FLAG_FAILED):
            raise Malformed("a reserved flag of a message")
        begin = at + MESSAGE_HEADER + (ID_SIZE if flags & FLAG_VIA else 0)
        if begin + length > len(plaintext):
            raise Malformed("a message's length")
        messages.append(Message(kind, plaintext[at + 8:at + MESSAGE_HEADER],
                                plaintext[begin:begin + length], tag, hops >> 4, flags,
                                plaintext[at + MESSAGE_HEADER:begin]))
        at = begin + length
    return messages


# Section 2: joining

class Connection:
    """A TLS connection to a relay: one line of JSON each way."""

    def __init__(self, identity, trust, control, source=None, session=None, alpn=ALPN,
                 version=SSL.TLS1_3_VERSION, timeout=PATIENCE):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        context.load_verify_locations(trust)
        context.set_verify(SSL.VERIFY_PEER, lambda tls, certificate, error, depth, ok: bool(ok))
        if identity:
            context.use_certificate_chain_file(identity.certificate)
            context.use_privatekey_file(identity.key)
        if alpn:
            context.set_alpn_protos([alpn])
        self.federation = identity.federation if identity else None
        self.resumed = True
        context.set_info_callback(self._watch)

        family = socket.AF_INET6 if ":" in control[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        # a kernel time-out: pyOpenSSL works on the descriptor and knows no other
        deadline = struct.pack("ll", timeout, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, deadline)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, deadline)
        if source:
            self.socket.bind((source, 0))
        try:
            self.socket.connect(control)
            self.tls = SSL.Connection(context, self.socket)
            if session:
                self.tls.set_session(session)
            self.tls.set_connect_state()
            self.tls.do_handshake()
        except BaseException:
            self.socket.close()
            raise

    def _watch(self, tls, where, result):
        # only a full handshake has a certificate in it
        if b"read server certificate" in tls.get_state_string():
            self.resumed = False

    def relay(self):
        """The relay's id, if its certificate is one of a relay."""
        certificate = self.tls.get_peer_certificate().to_cryptography()
        usages = extended_usages(certificate)
        if x509.ExtendedKeyUsageOID.SERVER_AUTH not in usages:
            raise Malformed("the relay's certificate has no serverAuth")
        name = name_of(certificate).split("/")
        if name[0] != "spiffe:" or name[3] != "relay":
            raise Malformed(f"{'/'.join(name)} is not a relay")
        if self.federation and name[2] != self.federation:
            raise Malformed(f"{'/'.join(name)} is of another federation")
        return id_of(certificate)

    def export(self, label, size, context=None):
        return self.tls.export_keying_material(label, size, context)

    def ask(self, hello):
        """Sends hello (an object, or the bytes themselves); returns the answer's JSON."""
        if isinstance(hello, dict):
            hello = json.dumps(hello).encode() + b"\n"
        if hello:
            self.tls.sendall(hello)
        return self.answer()

    def answer(self):
        data = b""
        while not data.endswith(b"\n"):
            data += self.tls.recv(4096)
        if len(data) > 4096:
            raise Malformed("a welcome that is too long")
        return json.loads(data)

    def close(self):
        """Reads until close_notify and answers with its own; returns the ticket to resume by."""
        try:
            surplus = self.tls.recv(1)
        except SSL.ZeroReturnError:
            surplus = b""
        if surplus:
            raise Malformed("bytes after the relay's answer")
        session = self.tls.get_session()
        self.tls.shutdown()
        self.abandon()
        return session

    def abandon(self):
        self.socket.close()


class Peer:
    """A peer and its session. `join` and `reach`, or both as `connect`; then `poll` and the rest.

    With `spread` each lane sends from a socket of its own. `source` and `data_source` are the
    addresses to come from, over TCP and UDP.
    """

    def __init__(self, identity, trust, control, source=None, data_source=None, lanes=1,
                 ciphers=("aes-256-gcm", "chacha20-poly1305"), mtu=None, spread=False,
                 checksum=False, bundles=False):
        self.identity = identity
        self.trust = trust
        self.control_address = control
        self.source = source
        self.data_source = data_source or source
        self.hello = {"viaduct": 1, "ciphers": list(ciphers), "lanes": lanes}
        if mtu:
            self.hello["mtu"] = mtu
        if checksum:
            self.hello["checksum"] = True
        self.bundles = bundles and []  # how many records were in each
        if bundles:
            self.hello["bundles"] = True
        self.spread = spread
        self.ticket = None
        self.resumed = False
        self.welcome = None
        self.echo = True  # whether to answer challenges
        self.answer_pings = True
        self.poller = select.poll()
        self.sockets = {}  # all that are open, by descriptor
        self.lane_sockets = []
        self.next_tag = 0
        self.sealed = set()    # (key, lane, sequence) of all that was ever sealed,
        self.received = set()  # and of all that was opened
        self._start()

    def _start(self):
        self.inbox = []
        self.events = []
        self.replies = {}
        self.bad = []  # why received datagrams were dropped
        self.path = None
        self.heard = False
        self.replaced = False
        self.old = None
        self.old_until = None
        self.transmitted = 0
        self.last_sent = time.monotonic()

    # joining

    def join(self):
        connection = Connection(self.identity, self.trust, self.control_address, self.source,
                                self.ticket)
        relay = connection.relay()
        welcome = connection.ask(self.hello)
        if "error" in welcome:
            self.ticket = connection.close()
            raise Refused(welcome)
        if (welcome["viaduct"] != 1 or id_parse(welcome["relay"]) != relay
                or id_parse(welcome["id"]) != self.identity.id or welcome["epoch"] != 0
                or welcome["cipher"] not in self.hello["ciphers"]):
            raise Malformed(f"welcome {welcome}")
        self._start()
        self.resumed = connection.resumed
        self.welcome = welcome
        self.relay = relay
        self.index = welcome["index"]
        self.lanes = welcome["lanes"]["up"]
        self.sequences = [0] * self.lanes
        self.used = [0] * self.lanes  # records under this key
        self.windows = [Window() for lane in range(welcome["lanes"]["down"])]
        self.epoch = Epoch(0, welcome["cipher"], connection.export, self.index, self.identity.id,
                           relay)
        self.ticket = connection.close()
        self._close_sockets()
        for lane in range(self.lanes if self.spread else 1):
            self.lane_sockets.append(self._open_socket(self.data_source))
        return self

    def connect(self):
        """Joins, and waits for the relay to say where it sends to."""
        self.join()
        self.reach()
        deadline = time.monotonic() + PATIENCE
        while not self.path:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{self.identity.name}: no path")
            self.poll(deadline - time.monotonic())
        return self

    def reach(self, timeout=PATIENCE):
        """Pings the relay until something sealed comes back."""
        deadline = time.monotonic() + timeout
        pause = 0.05
        while not self.heard:
            if time.monotonic() >= deadline:
                raise Unreachable("joined, but no sealed answer came: data port unreachable")
            self.ping_relay()
            until = min(time.monotonic() + pause, deadline)
            while not self.heard and time.monotonic() < until:
                self.poll(until - time.monotonic())
            pause = min(2 * pause, 1.0)

    def rekey(self, ping=True):
        """Section 7, in the caller's thread: takes a round trip or three."""
        connection = Connection(self.identity, self.trust, self.control_address, self.source,
                                self.ticket)
        proof = (self.epoch.rekey_secret, connection.export(EXPORT_BINDING, 32), self.index,
                 self.epoch.number)
        mac = rekey_mac(*proof)
        welcome = self.ask_rekey(connection, self.index, self.epoch.number, mac)
        if "error" in welcome:
            self.ticket = connection.close()
            raise Refused(welcome)
        relay = connection.relay()  # may have another key by now, but must have the session
        if (welcome["index"] != self.index or welcome["epoch"] != self.epoch.number + 1
                or id_parse(welcome["relay"]) != relay
                or bytes.fromhex(welcome["mac"]) != rekey_mac(*proof, b"viaduct grant")):
            raise Malformed(f"welcome {welcome}")
        self.resumed = connection.resumed
        self.old = self.epoch
        self.old_until = None
        self.epoch = Epoch(welcome["epoch"], self.welcome["cipher"], connection.export,
                           self.index, self.identity.id, relay)
        self.used = [0] * self.lanes
        self.welcome = welcome
        self.ticket = connection.close()
        if ping:
            self.ping_relay()

    def ask_rekey(self, connection, index, epoch, mac):
        return connection.ask({"viaduct": 1, "ciphers": [self.welcome["cipher"]],
                               "lanes": self.lanes,
                               "rekey": {"index": index, "epoch": epoch, "mac": mac.hex()}})

    # sending

    def tag(self):
        self.next_tag += 1
        return self.next_tag

    def header(self, lane=0, klass=NORMAL):
        """The next record's header of this lane; uses up its sequence."""
        if self.used[lane] >= self.welcome["key_records"] // self.lanes:
            raise KeyExhausted(f"lane {lane}")
        header = Header(klass, self.epoch.number & 1, self.index, lane, self.sequences[lane])
        self.sequences[lane] += 1
        self.used[lane] += 1
        return header

    def seal(self, messages, lane=0, klass=NORMAL):
        return self.seal_raw(self.header(lane, klass), b"".join(m.pack() for m in messages))

    def seal_raw(self, header, plaintext):
        nonce = (self.epoch.up.name, header.lane, header.sequence)
        assert nonce not in self.sealed, f"a nonce would repeat: {nonce}"
        self.sealed.add(nonce)
        return self.epoch.up.seal(header.pack(), plaintext)

    def transmit(self, record, lane=0):
        self.put(record, self.lane_sockets[lane if self.spread else 0])
        if lane == 0:
            self.last_sent = time.monotonic()

    def put(self, datagram, sock):
        self.transmitted += 1
        sock.send(datagram)

    def send_messages(self, messages, lane=0, klass=NORMAL):
        self.transmit(self.seal(messages, lane, klass), lane)

    def send(self, address, payload=b"", kind=SEND, lane=0, klass=NORMAL, tag=None, **fields):
        """Sends one message in a record of its own; returns its tag."""
        tag = self.tag() if tag is None else tag
        self.send_messages([Message(kind, address, payload, tag, **fields)], lane, klass)
        return tag

    def ping_relay(self):
        self.send(self.relay, kind=PING, klass=CONTROL_CLASS, tag=OWN_PING)

    def control(self, request, timeout=PATIENCE):
        """Asks the relay, repeatedly until it answers; returns the answer."""
        deadline = time.monotonic() + timeout
        tag = self.tag()
        while tag not in self.replies:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no answer to {request}")
            self.send(self.relay, json.dumps(request).encode(), CONTROL, klass=CONTROL_CLASS,
                      tag=tag)
            until = time.monotonic() + 0.2
            while tag not in self.replies and time.monotonic() < until:
                self.poll(until - time.monotonic())
        return self.replies.pop(tag)

    def leave(self):
        return self.control({"op": "leave"})

    def move(self, source):
        """Sends lane 0 from a new socket at this address from now on, and still hears the old."""
        self.lane_sockets[0] = self._open_socket(source)

    # receiving

    def poll(self, timeout=0.0):
        """Handles all that has arrived, waiting for the first; returns the new messages."""
        before = len(self.inbox)
        idle = time.monotonic() - self.last_sent
        if idle >= self.welcome["keepalive"] and not self.replaced:
            self.ping_relay()
        for descriptor, what in self.poller.poll(max(0, timeout * 1000)):
            sock = self.sockets[descriptor]
            while True:
                try:
                    datagram = sock.recv(65536, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                except ConnectionRefusedError:
                    self.bad.append("port unreachable")
                    continue
                self.datagram(datagram, sock)
        return self.inbox[before:]

    def datagram(self, datagram, sock):
        try:
            if datagram[0] == BUNDLE and self.bundles is not False:
                records = bundle_parse(datagram)
                self.bundles.append(len(records))
            else:
                records = [datagram]
            for record in records:
                self._receive(record, sock)
        except (Malformed, InvalidTag) as error:
            self.bad.append(f"{type(error).__name__}: {error}")

    def wait(self, wanted, timeout=PATIENCE):
        """Takes the first message for which wanted(message) out of the inbox, polling for it."""
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            for at in range(seen, len(self.inbox)):
                if wanted(self.inbox[at]):
                    return self.inbox.pop(at)
            seen = len(self.inbox)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.identity.name}: not received")
            self.poll(left)

    def wait_tag(self, tag, timeout=PATIENCE):
        return self.wait(lambda message: message.tag == tag, timeout)

    def wait_event(self, name, timeout=PATIENCE):
        """Takes the first event of this name, polling for it."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.identity.name}: no event {name}")
            self.poll(left)

    def _receive(self, datagram, sock):
        header = header_parse(datagram)
        if header.index != self.index:
            raise Malformed(f"a record for session {header.index}")
        if header.lane >= len(self.windows):
            raise Malformed(f"a record on lane {header.lane}")
        epoch = self.epoch
        if header.phase != epoch.number & 1:
            if self.old and self.old_until and time.monotonic() > self.old_until:
                self.old = None
            if not self.old:
                raise Malformed("a record of the other phase")
            epoch = self.old
        window = self.windows[header.lane]
        if not window.fresh(header.sequence):
            raise Malformed(f"a replayed record: lane {header.lane}, {header.sequence}")
        plaintext = epoch.down.open(datagram)
        window.mark(header.sequence)
        if epoch is self.epoch and self.old and self.old_until is None:
            self.old_until = time.monotonic() + OLD_EPOCH_SECONDS
        nonce = (epoch.down.name, header.lane, header.sequence)
        assert nonce not in self.received, f"the relay repeated a nonce: {nonce}"
        self.received.add(nonce)
        self.heard = True
        for message in messages_parse(plaintext):
            message.record = header
            message.local = sock.getsockname()[:2]
            self._handle(message, sock)

    def _handle(self, message, sock):
        if message.kind == PING and self.answer_pings:
            self.send(message.address, message.payload, PONG, klass=message.record.klass,
                      tag=message.tag)
        elif message.kind == PONG and message.tag == OWN_PING:
            pass
        elif message.kind == CONTROL and message.tag:
            self.replies[message.tag] = json.loads(message.payload)
        elif message.kind == CONTROL:
            self._event(json.loads(message.payload), sock)
        else:
            self.inbox.append(message)

    def _event(self, event, sock):
        self.events.append(event)
        if event["event"] == "path":
            self.path = (event["address"], event["port"])
        elif event["event"] == "replaced":
            self.replaced = True
        elif event["event"] == "challenge" and self.echo and sock is self.lane_sockets[0]:
            self.send(self.relay, json.dumps({"op": "echo", "token": event["token"]}).encode(),
                      CONTROL, klass=CONTROL_CLASS)

    # sockets

    def _open_socket(self, source):
        address = (self.welcome["data"]["address"], self.welcome["data"]["port"])
        six = ":" in address[0]
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER: DF, no fragments
        else:
            sock.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        if source:
            sock.bind((source, 0))
        sock.connect(address)
        self.sockets[sock.fileno()] = sock
        self.poller.register(sock, select.POLLIN)
        return sock

    def _close_sockets(self):
        for descriptor, sock in self.sockets.items():
            self.poller.unregister(descriptor)
            sock.close()
        self.sockets = {}
        self.lane_sockets = []

    def close(self):
        """Goes without a word; the session lives until it expires."""
        self._close_sockets()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
