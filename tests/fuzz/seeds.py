#!/usr/bin/python3
"""Writes the seed corpora of the fuzz targets, tests/fuzz/corpus/fuzz_SUBJECT/: a few inputs each
that reach the far ends of the parsers, made from docs/protocol.md and the test vectors alone."""

import datetime
import json
import pathlib
import struct

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

here = pathlib.Path(__file__).parent
vectors = json.loads((here.parent / "vectors.json").read_text())

SEND, REQUEST, RESPONSE, PUBLISH, PING, PONG, CONTROL = range(1, 8)
VIA, KEY, FAILED = 1, 4, 4
BULK, NORMAL, CRITICAL, CLASS_CONTROL = range(4)
RELAY = b"relay's own id.."  # as in tests/unit/fixture.c


def write(subject, **seeds):
    folder = here / "corpus" / f"fuzz_{subject}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in seeds.items():
        if not isinstance(content, bytes):
            content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        (folder / name).write_bytes(content)


def peer(number):
    return b"peer" + struct.pack(">H", number) + bytes(10)


def message(to, kind=SEND, payload=b"", hop_limit=8, flags=0, tag=1):
    return struct.pack(">HBBI", len(payload), kind, hop_limit << 4 | flags, tag) + to + payload


def record(index, *messages, lane=0, sequence=0, phase=0, kind=NORMAL, tag=bytes(16)):
    return (struct.pack(">BBHIQ", 0x10, kind << 6 | phase << 5, 0, index, lane << 56 | sequence)
            + b"".join(messages) + tag)


# the steps of record.c
def step(what, amount=0):
    return bytes([amount << 3 | what])


def bundle(*contents):
    return b"\x11\0" + b"".join(struct.pack(">H", len(each)) + each for each in contents)


def arrives(content):
    return step(0) + struct.pack(">H", len(content)) + content


def datagram(*arguments, **options):
    return arrives(record(*arguments, **options))


def burst(worker=0):
    return step(1, worker)


def wire():
    seeds = {name: bytes.fromhex(vector["record"])
             for name, vector in vectors.items() if "record" in vector}
    seeds |= {name + "_text": bytes.fromhex(vector["plaintext"])
              for name, vector in vectors.items() if "plaintext" in vector}
    write("wire", id=vectors["peer_id"]["text"],
          lie=message(RELAY, payload=b"x")[:-1],
          bundle=bundle(record(1, message(RELAY)), record(2, message(RELAY), sequence=1)),
          reserved=message(RELAY, flags=4), **seeds)


def frame():
    macs = bytes.fromhex("020000000001" "020000000002")
    udp = struct.pack(">HHHH", 40000, 7740, 8 + 56, 0) + record(1, message(peer(2)))
    ip4 = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0,
                      bytes([10, 77, 0, 2]), bytes([10, 77, 0, 1])) + udp
    ip6 = struct.pack(">IHBB16s16s", 6 << 28, len(udp), 17, 64, b"\xfdw" + bytes(13) + b"\2",
                      b"\xfdw" + bytes(13) + b"\1") + udp
    options = b"\x46" + ip4[1:20] + bytes(4) + udp
    fragment = ip4[:6] + b"\x20\x00" + ip4[8:]
    write("frame",
          ip4=macs + b"\x08\x00" + ip4, ip6=macs + b"\x86\xdd" + ip6,
          vlan_ip4=macs + b"\x81\x00\x00\x07\x08\x00" + ip4,
          vlan_ip6=macs + b"\x81\x00\x00\x07\x86\xdd" + ip6,
          options=macs + b"\x08\x00" + options, fragment=macs + b"\x08\x00" + fragment,
          padded=macs + b"\x08\x00" + ip4 + bytes(18), short=macs + b"\x08\x00" + ip4[:-1],
          arp=macs + b"\x08\x06" + bytes(46), multicast=b"\1" + macs[1:] + b"\x08\x00" + ip4)


def hello():
    full = {"viaduct": 1, "ciphers": ["aes-256-gcm", "chacha20-poly1305", "none"], "lanes": 8,
            "mtu": 9000, "later": {"any": ["thing", 1.5, None, True]}}
    rekey = {"index": 4293918721, "epoch": 7, "mac": vectors["rekey"]["mac"]}
    write("hello", least={"viaduct": 1, "ciphers": ["aes-256-gcm"]}, full=full,
          rekey=full | {"rekey": rekey}, version={"viaduct": 2}, array=[1],
          lanes=full | {"lanes": 0}, mtu=full | {"mtu": 1e3},
          mac=full | {"rekey": rekey | {"mac": "ff"}},
          half='{"viaduct":1,"ciphers":["aes', twice='{"viaduct":1,"viaduct":1}')


def certificate(uris, *usages, name="peer 1"):
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))  # the same every time
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = datetime.datetime(2024, 1, 1)
    builder = (x509.CertificateBuilder(subject, subject, key.public_key(), 7, day, day)
               .add_extension(x509.ExtendedKeyUsage(usages), critical=False))
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, None).public_bytes(Encoding.DER)


def identity():
    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    one, relay = "spiffe://lab.example/alpha/peer-1", "spiffe://lab.example/relay/one"
    write("identity", uri=one, deep="spiffe://a/b/c/d/e", short="spiffe://a/b",
          dots="spiffe://a/b/..", slash="spiffe://a/b/", upper="spiffe://A/b/c", peer=certificate([one], client),
          relay=certificate([relay], server), both=certificate([relay], server, client),
          two=certificate([one, relay], client), name=certificate([], client),
          nothing=certificate([], client, name="x" * 64))


def request():
    write("request", resolve={"op": "resolve", "name": "spiffe://lab/a/peer-1"},
          peers={"op": "peers", "cluster": "a", "after": vectors["peer_id"]["text"]},
          all={"op": "peers"}, relays={"op": "relays"}, leave={"op": "leave"},
          echo={"op": "echo", "token": "0123456789abcdef0123456789abcdef"},
          complain={"op": "complain", "peer": vectors["peer_id"]["text"], "reason": "spam"},
          watch={"op": "watch", "cluster": "a", "id": vectors["peer_id"]["text"]},
          unwatch={"op": "unwatch"},
          register={"op": "register", "service": "build/render", "weight": 10, "region": "north",
                    "policy_version": 3},
          register_badly={"op": "register", "service": "A", "weight": -(1 << 63), "region": "",
                          "policy_version": 1 << 62},
          weight={"op": "register", "service": "a", "weight": 1.5},
          unregister={"op": "unregister", "service": "build/render"},
          region={"op": "region", "region": "r" * 255}, no_region={"op": "region"},
          join_topic={"op": "join_topic", "name": "build/status", "cluster": "a"},
          leave_topic={"op": "leave_topic", "name": "build/status"},
          unknown={"op": "fly"}, type={"op": 1}, long={"op": "resolve", "name": "n" * 300})


def scores():
    first = {"viaduct_scores": 1, "written": 1699999000}
    peer = {"id": vectors["peer_id"]["text"], "name": "spiffe://lab/a/peer-1", "level": 3,
            "pinned": False, "cuts": 2, "cut_ago_s": 30, "cut_s": 90, "age_s": 0,
            "causes": {"auth": [1.5, 20, 7], "complaint": [30, 15, 0]},
            "complaint": [vectors["relay_id"]["text"], "spam"]}
    other = {**peer, "id": vectors["relay_id"]["text"], "pinned": True, "cuts": 99}
    del other["complaint"]

    def lines(*objects):
        return "".join(json.dumps(entry) + "\n" for entry in objects)
    write("scores", both=lines(first, peer, other), twice=lines(first, peer, peer),
          nothing=lines(first), headless=lines(peer), later=lines({**first, "viaduct_scores": 2}),
          half=lines(first, peer, other)[:-30], future=lines({**first, "written": 1 << 60}, peer),
          past=lines({**first, "written": -(1 << 60)}, peer),
          wrong=lines(first, {**peer, "cuts": -1}, {**peer, "level": 9}, {**peer, "causes": []},
                      {**peer, "causes": {"auth": [-1, 0, 0]}}, {**peer, "id": "x"}, [], 7))


def config():
    least = "tls: {certificate: r.pem, key: r.key, ca: ca.pem}\ndata: {interface: eth0}\n"
    write("config", least=least, full=least.replace("}\ndata", """}
control:
  listen: ["10.77.0.1:7740", "[fd77::1]:7740"]
  admin: viaduct.sock
  core: 0
session:
  keepalive: 10
  expiry: 30
  rekey: 3600
  lanes_up: 4
  key_records: 268435456
  max: 20000
  ciphers: [aes-256-gcm, chacha20-poly1305]
limits: {hello_timeout: 5, handshakes: 64, takeovers_per_minute: 30}
log:
  level: info
data""").replace("eth0", """eth0, driver: af_xdp, port: 7740, workers: 2, cores: [1, 2],
  polling: busy, mtu: 9000, aead: auto, address: ["192.0.2.1", "2001:db8::1"]"""),
          unknown=least + "colour: blue\n", range=least + "session: {lanes_up: 9}\n",
          type=least + "session: {max: [1]}\n", choice=least + "log: {level: loud}\n",
          anchors=least + "log: &log {level: info}\nlimits: *log\n", tabs="tls:\n\tkey: x\n",
          empty="", twice=least + least)


def welcome():
    entry = {"id": vectors["peer_id"]["text"], "name": "spiffe://lab/a/peer-1"}
    full = {"viaduct": 1, "id": vectors["peer_id"]["text"], "name": "spiffe://lab/a/peer-1",
            "relay": vectors["relay_id"]["text"], "index": 5317445, "epoch": 0,
            "cipher": "aes-256-gcm", "data": {"address": "10.77.0.1", "port": 7740},
            "lanes": {"up": 2, "down": 2}, "mtu": 1280, "max_payload": 1160, "keepalive": 10,
            "expiry": 30, "rekey": 3600, "key_records": 1 << 28, "relays": ["10.77.0.3:7740"]}
    write("welcome", full=full, ip6=full | {"data": {"address": "fd77::1", "port": 1}},
          chacha=full | {"cipher": "chacha20-poly1305", "epoch": 9},
          busy={"error": "busy", "detail": "too many handshakes", "retry_after": 3},
          malformed={"error": "malformed", "detail": "half a line"},
          path={"event": "path", "address": "fd77::2", "port": 40000},
          challenge={"event": "challenge", "token": "0123456789abcdef"},
          closing={"event": "closing"}, ok={"ok": True},
          list={"ok": True, "peers": [entry, entry], "more": True},
          refused={"ok": False, "error": "malformed", "detail": "no name"})


def records():
    two = [message(peer(1), payload=b"one"), message(peer(2), REQUEST, b"two")]
    rest = [message(RELAY, PING, b"ping"), message(peer(4)), message(peer(9), tag=9),
            message(peer(3), payload=bytes(200)), message(peer(2), hop_limit=0)]
    ask = message(RELAY, CONTROL, b'{"op":"relays"}')
    lone = datagram(2, message(peer(1), payload=b"hello"))
    several = [record(1 + i % 2, message(peer(2 - i % 2)), sequence=i) for i in range(40)]
    topic, service = b"topic" + bytes(11), b"service" + bytes(9)
    news = message(topic, PUBLISH, b"news")
    asked = message(service, REQUEST, b"what", tag=7)
    keyed = message(service, REQUEST, b"somebody" b"what", flags=KEY, tag=8)
    answers = [b"\0\4" + message(peer(2), RESPONSE, service + b"that", flags=flags, tag=tag)[2:]
               for flags, tag in ((VIA, 7), (VIA | FAILED, 8), (VIA, 9))]
    write("record",
          publish=datagram(2, news, news) + burst() + datagram(2, news, message(peer(1)),
                                                               sequence=1) + burst(),
          publish_much=b"".join(datagram(2, *[news] * 20, sequence=i) for i in range(32))
          + burst() + step(4, 4) + datagram(1, news) + burst(),
          topic_wrongly=datagram(2, message(topic, REQUEST), message(peer(1), PUBLISH),
                                 message(service, PUBLISH), message(topic, RESPONSE)) + burst(),
          ask=datagram(2, asked, keyed) + burst() + datagram(1, *answers) + burst()
          + datagram(1, *answers, sequence=1) + burst(),
          ask_much=b"".join(datagram(2, *[message(service, REQUEST, tag=20 * i + j)
                                          for j in range(20)], sequence=i) for i in range(5))
          + burst() + step(7, 28) + datagram(2, asked, sequence=9) + burst(),
          key_cut=datagram(2, message(service, REQUEST, b"short", flags=KEY),
                           message(service, flags=KEY)) + burst(),
          unasked=datagram(1, *answers) + burst(),
          lone=lone + burst(), replay=lone + lone + burst() + lone,
          packed=datagram(2, *two, *rest) + datagram(1, *two) + burst(),
          classes=b"".join(datagram(2, *two, kind=c, sequence=c) for c in range(4)) + burst(),
          control=datagram(1, ask, kind=CLASS_CONTROL) + datagram(2, ask, kind=CLASS_CONTROL)
          + step(6) + datagram(2, ask, sequence=1) + burst(),
          phases=datagram(1, *two) + datagram(1, *two, sequence=1, phase=1) + burst(),
          handed_over=lone + burst(0) + datagram(2, *two, sequence=1) + burst(1) + step(2, 0)
          + datagram(2, *two, sequence=2) + burst(1),
          owner_full=lone + burst(0) + step(6, 1) + datagram(2, *two, sequence=1) + burst(1),
          bounced=lone + burst(0) + datagram(2, *two, sequence=1) + datagram(2, *two, sequence=2)
          + burst(1) + step(2, 0) + burst(0) + step(2, 1),
          forged=datagram(2, *two, tag=b"\xff" * 16) + burst(),
          malformed=datagram(2, two[0][:-1]) + datagram(2, message(peer(1), flags=1), bytes(16)),
          full=step(4, 1) + datagram(2, *two, *rest) + burst() + step(4, 0) + step(5, 3)
          + datagram(2, *two, *two, sequence=1) + burst(),
          exhausted=b"".join(datagram(1, two[1], sequence=i) + burst() for i in range(7)),
          commands=b"".join(step(3, i) for i in range(32)),
          returned=datagram(3 + (1 << 20), *two) + datagram(3, *two) + burst(),
          bundle=lone + arrives(bundle(*several)) + datagram(2, *two, sequence=50) + burst(),
          bundle_cut=arrives(bundle(*several[:3])[:-1])
          + arrives(bundle(several[3], bundle(several[4]))) + step(5) + arrives(bundle(several[5])),
          many=datagram(2, *[message(peer(1 + i % 4), tag=i) for i in range(300)]) * 2 + burst(),
          errors=datagram(2, *[message(peer(9), tag=i) for i in range(300)]) + burst()
          + step(7, 20) + datagram(2, message(peer(9)), sequence=1))


# the steps of shed.c
def some(amount, kind=NORMAL, sender=0, size=0):
    return step(0, amount - 1) + bytes([kind | sender << 2 | size << 5])


def take(amount=32):
    return step(4, amount - 1) + b"\0"


def passes(milliseconds):
    return step(5, milliseconds) + b"\0"


def backlog():
    reserve = step(6, 3) + b"\0"
    put = step(1) + b"\0"
    mixed = b"".join(some(4, kind, sender, size) for kind, sender, size in
                     [(BULK, 0, 0), (CRITICAL, 1, 5), (NORMAL, 2, 7), (BULK, 3, 1),
                      (CRITICAL, 0, 0), (CLASS_CONTROL, 4, 2), (NORMAL, 5, 3), (BULK, 6, 4)])
    full = some(32) * 64
    write("shed",
          mixed=reserve + mixed + put + take() + mixed + passes(4) + take(7) + mixed + take(),
          full=reserve + full + mixed * 4 + take() + some(32, CRITICAL, 1) * 70 + mixed + take() * 9,
          stands=reserve + some(32, BULK) * 4 + (some(32) + take()) * 130 + mixed * 20 + take() * 9
          + mixed,
          flood=reserve + (some(32, CRITICAL, 1) * 8 + mixed + take() * 2 + passes(2)) * 12,
          control=reserve + some(32, CRITICAL) * 64 + some(32, CLASS_CONTROL, 1) * 8 + take()
          + step(6, 31) + b"\0" + mixed + take() * 3 + step(6) + b"\0" + mixed,
          handed=full + (step(2, 0) + b"\2" + step(3) + b"\0") * 3 + take() + passes(31) + mixed)


for make in wire, frame, hello, identity, request, scores, config, welcome, records, backlog:
    make()
