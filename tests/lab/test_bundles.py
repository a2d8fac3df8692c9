"""Several records in a datagram, for peers that take them."""
import os
import signal

import pytest

from peer import CRITICAL, NORMAL


@pytest.mark.parametrize("driver", ["af_xdp", "af_packet"])
def test_who_asks(relay, driver, join):
    sender, asks, asks_not = join("sender"), join("asks", bundles=True), join("asks-not")
    before = relay.drops()
    wanted = [b"%d" % number for number in range(8)]
    # all in one burst, of two classes, which don't share records
    os.kill(relay.process.pid, signal.SIGSTOP)
    try:
        for payload in wanted:
            for peer in asks, asks_not:
                for klass in NORMAL, CRITICAL:
                    sender.send(peer.identity.id, payload, klass=klass)
    finally:
        os.kill(relay.process.pid, signal.SIGCONT)
    for peer in asks, asks_not:
        while len(peer.inbox) < 2 * len(wanted):
            assert peer.poll(3), f"{len(peer.inbox)} came"
        for klass in NORMAL, CRITICAL:
            assert [message.payload for message in peer.inbox
                    if message.record.klass == klass] == wanted
        assert peer.bad == []
    assert asks.bundles and min(asks.bundles) >= 2
    records, messages = relay.ledger() - before
    assert records["dropped"] == messages["dropped"] == {}
    assert messages["delivered"] == 4 * len(wanted)
