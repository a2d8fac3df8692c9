#!/usr/bin/python3
"""Makes tests/vectors.json and the section "Test vectors" of docs/protocol.md from fixed inputs.

Usage: vectors.py json | text

It shares nothing with peer.py or the C code, so that three readings of docs/protocol.md meet in the
same bytes.
"""

import base64
import hashlib
import hmac
import json
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

PEER = hashlib.sha256(b"viaduct test peer").digest()[:16]
RELAY = hashlib.sha256(b"viaduct test relay").digest()[:16]
OTHER = hashlib.sha256(b"viaduct test other").digest()[:16]


def number(value, size):
    return value.to_bytes(size, "big")


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def identity(peer_id):
    text = base64.b32encode(peer_id).decode().lower().rstrip("=")
    return {"id": peer_id.hex(), "text": text}


def context(aead, direction, index, epoch):
    data = (b"\x01" + number(aead, 2) + number(direction, 1) + number(index, 4)
            + number(epoch, 4) + PEER + RELAY)
    return {"aead": aead, "direction": direction, "index": index, "epoch": epoch,
            "peer": PEER.hex(), "relay": RELAY.hex(), "context": data.hex()}


def rekey(index, epoch, prefix=b"viaduct rekey"):
    secret = hashlib.sha256(b"viaduct test rekey secret").digest()
    binding = hashlib.sha256(b"viaduct test binding").digest()
    covered = prefix + binding + number(index, 4) + number(epoch, 4)
    return {"secret": secret.hex(), "binding": binding.hex(), "index": index, "epoch": epoch,
            "input": covered.hex(), "mac": hmac.digest(secret, covered, "sha256").hex()}


def message(kind, hop_limit, flags, tag, address, via, payload):
    data = (number(len(payload), 2) + number(kind, 1) + number(hop_limit << 4 | flags, 1)
            + number(tag, 4) + address + via + payload)
    return {"kind": kind, "hop_limit": hop_limit, "flags": flags, "tag": tag,
            "address": address.hex(), "via": via.hex(), "payload": payload.hex(),
            "message": data.hex()}


def record(cipher, klass, epoch, index, lane, sequence, messages):
    exported = hashlib.sha512(b"viaduct test export " + cipher.encode()).digest()[:44]
    key, iv = exported[:32], exported[32:]
    header = (b"\x10" + number(klass << 6 | (epoch & 1) << 5, 1) + bytes(2) + number(index, 4)
              + number(lane, 1) + number(sequence, 7))
    nonce = xor(iv, bytes(4) + header[8:])
    plaintext = b"".join(bytes.fromhex(m["message"]) for m in messages)
    aead = {"aes-256-gcm": AESGCM, "chacha20-poly1305": ChaCha20Poly1305}[cipher](key)
    return {"cipher": cipher, "export": exported.hex(), "key": key.hex(), "iv": iv.hex(),
            "class": klass, "phase": epoch & 1, "index": index, "lane": lane,
            "sequence": sequence, "header": header.hex(), "nonce": nonce.hex(),
            "plaintext": plaintext.hex(),
            "record": (header + aead.encrypt(nonce, plaintext, header)).hex()}


def make():
    index = 0x00512345  # generation 5, slot 0x12345
    send = message(1, 8, 0, 0x01020304, OTHER, b"", b"hello, other peer")
    ping = message(5, 8, 0, 0xfffefdfc, RELAY, b"", b"")
    via = message(2, 7, 3, 7, OTHER, PEER, bytes(range(40)))
    return {
        "peer_id": identity(PEER),
        "relay_id": identity(RELAY),
        "zero_id": identity(bytes(16)),
        "context_up": context(2, 0, index, 0),
        "context_down": context(29, 1, index, 0x01020304),
        "context_rekey": context(2, 2, index, 1),
        "rekey": rekey(index, 1),
        "rekey_grant": rekey(index, 1, b"viaduct grant"),
        "message_send": send,
        "message_ping": ping,
        "message_via": via,
        "record_aes": record("aes-256-gcm", 1, 0, index, 0, 0, [send]),
        "record_chacha": record("chacha20-poly1305", 2, 3, 0xfff00001, 7, 0x00a1b2c3d4e5f6,
                                [send, ping, via]),
    }


def text(vectors):
    """The same as the document shows it: names, numbers in decimal, bytes in hex, 64 a line."""
    lines = []
    for name, fields in vectors.items():
        lines.append(name)
        for field, value in fields.items():
            value = str(value) or "(empty)"
            for start in range(0, len(value), 64):
                lines.append(f"  {'' if start else field:<10} {value[start:start + 64]}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["json"]:
        json.dump(make(), sys.stdout, indent=2)
        print()
    elif sys.argv[1:] == ["text"]:
        sys.stdout.write(text(make()))
    else:
        sys.exit("usage: vectors.py json | text")
