"""DPDK's crypto devices as the dataplane's cipher: here those that are made of software."""

import subprocess

import pytest

from relay import ENVIRONMENT, VIADUCTD

AES, CHACHA = "aes-256-gcm", "chacha20-poly1305"


def cryptodev(device, *ciphers):
    return pytest.mark.relay(data={"aead": "cryptodev", "aead_device": device},
                             session={"ciphers": list(ciphers)})


def converse(left, right):
    for size in range(0, 1161, 29):
        right.wait_tag(left.send(right.identity.id, bytes(size)))
        left.wait_tag(right.send(left.identity.id, bytes(size)))


def all_is_said(relay, join, ciphers):
    """By peers whose cipher is another implementation, over a rekey, with forgeries in between."""
    alice, bob = join("alice", ciphers=[ciphers[0]]), join("bob", ciphers=[ciphers[-1]])
    converse(alice, bob)
    alice.rekey()
    converse(alice, bob)
    before = relay.drops()
    for bit in range(8):
        record = bytearray(alice.seal_raw(alice.header(), bytes(40)))
        record[-1] ^= 1 << bit
        alice.transmit(bytes(record))
    relay.expect_drops(before, records={"auth": 8})
    converse(alice, bob)
    assert alice.bad == bob.bad == []


@cryptodev("crypto_aesni_mb", AES, CHACHA)
def test_aesni_mb(relay, join):
    all_is_said(relay, join, [AES, CHACHA])


@cryptodev("crypto_openssl", AES)
def test_openssl(relay, join):
    all_is_said(relay, join, [AES])


@pytest.mark.relay(queues=2, data={"workers": 2, "aead": "cryptodev",
                                   "aead_device": "crypto_aesni_mb"})
def test_two_workers(relay, join):
    peers = [join(f"peer-{number}", lanes=2, spread=True) for number in range(6)]
    for left in peers:
        for right in peers:
            right.wait_tag(left.send(right.identity.id, lane=1))


@pytest.mark.parametrize("data, session, says", [
    ({"aead": "cryptodev"}, {}, "data.aead_device"),
    ({"aead": "openssl", "aead_device": "crypto_openssl"}, {}, "data.aead_device"),
    ({"aead": "cryptodev", "aead_device": "crypto_abacus"}, {}, "crypto_abacus"),
    ({"aead": "cryptodev", "aead_device": "crypto_null"}, {}, "can't do AES-256-GCM"),
    ({"aead": "cryptodev", "aead_device": "0000:ff:1f.7"}, {}, "0000:ff:1f.7"),
    ({"aead": "cryptodev", "aead_device": "crypto_openssl"}, {}, f"can't do {CHACHA}"),
])
def test_devices_that_wont_do(lab, make_relay, data, session, says):
    relay = make_relay(data=data, session=session)
    done = subprocess.run(lab.relay_command(VIADUCTD, "-c", relay.file), capture_output=True,
                          text=True, check=False, timeout=30, env=ENVIRONMENT)
    assert done.returncode > 0
    assert says in done.stdout + done.stderr
