"""Many requests at the same time, through libviaduct."""

import os
import subprocess

import pytest

from relay import BUILD, CONTROL_V4, PATIENCE

REQUESTS = os.path.join(BUILD, "tests", "lab", "requests")
PEERS, EACH = 100, 100


@pytest.mark.relay(session={"max": 1000})
def test_hundred_each_of_hundred_peers(relay, federation, neighbours):
    """All are outstanding at once, and all are answered."""
    peers = [federation.peer(f"asks{number}") for number in range(PEERS)]
    files = "".join(f"{peer.certificate} {peer.key}\n" for peer in peers)
    done = subprocess.run((REQUESTS, "{}:{}".format(*CONTROL_V4), federation.trust, str(EACH)),
                          input=files, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.stderr == ""
    assert done.stdout == f"{EACH} {PEERS * EACH} {PEERS * EACH}\n"
