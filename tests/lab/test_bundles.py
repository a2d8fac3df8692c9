"""Several records in a datagram, for peers that take them."""
import os
import signal

import pytest

from peer import CRITICAL, NORMAL

ROUNDS = 50


def send_at_once(relay, sender, peers, payloads):
    """In one burst, unless the kernel hands them over in parts: in two classes each."""
    os.kill(relay.process.pid, signal.SIGSTOP)
    try:
        for payload in payloads:
            for peer in peers:
                for klass in NORMAL, CRITICAL:
                    sender.send(peer.identity.id, payload, klass=klass)
    finally:
        os.kill(relay.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("driver", ["af_xdp", "af_packet"])
def test_who_asks(relay, driver, join):
    """Classes don't share records, but datagrams."""
    sender, asks, asks_not = join("sender"), join("asks", bundles=True), join("asks-not")
    before, rounds = relay.drops(), 0
    wanted = [b"%d" % number for number in range(4)]
    while not asks.bundles:
        rounds += 1
        assert rounds <= ROUNDS, "no bundle came"
        send_at_once(relay, sender, (asks, asks_not), wanted)
        for peer in asks, asks_not:
            while len(peer.inbox) < 2 * len(wanted):
                assert peer.poll(3), f"{len(peer.inbox)} came"
            for klass in NORMAL, CRITICAL:
                assert [message.payload for message in peer.inbox
                        if message.record.klass == klass] == wanted
            assert peer.bad == []
            peer.inbox.clear()
    assert min(asks.bundles) >= 2
    records, messages = relay.ledger() - before
    assert records["dropped"] == messages["dropped"] == {}
    assert messages["delivered"] == 4 * len(wanted) * rounds
