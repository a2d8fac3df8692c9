"""Where threads run: the plan, and that the daemon keeps to it."""

import json
import os
import subprocess

import pytest

from relay import ROOT, VIADUCTD

TWO_NODES = os.path.join(ROOT, "numa", "tests", "two-nodes.xml")


def plan(relay, *options):
    return subprocess.run((VIADUCTD, "--plan", "-c", relay.file, *options), capture_output=True,
                          text=True, check=False)


def threads(relay):
    """name: cores that it may run on"""
    result = {}
    for task in os.listdir(f"/proc/{relay.process.pid}/task"):
        with open(f"/proc/{relay.process.pid}/task/{task}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        result[status["Name"].strip()] = status["Cpus_allowed_list"].strip()
    return result


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_are_where_the_plan_says(house, workers):
    relay = house.get(queues=workers, data={"workers": workers})
    wanted = json.loads(plan(relay, "--json").stdout)
    assert [worker["core"] for worker in relay.admin("status")["workers"]] \
        == [worker["core"] for worker in wanted["workers"]]
    found = threads(relay)
    assert found["viaductd"] == str(wanted["control"]["core"])
    assert found["viaduct-rcu"] == str(wanted["reclaimer"]["core"])
    for number, worker in enumerate(wanted["workers"]):
        assert found[f"viaduct-w{number}"] == str(worker["core"])


def test_plan_for_another_machine(house):
    relay = house.get()
    answer = plan(relay, "--topology", TWO_NODES)
    assert answer.returncode == 0, answer.stderr
    assert "worker 0       1     0  a core of its own" in answer.stdout
    assert "node is unknown" in answer.stdout


def test_plan_that_is_impossible(house):
    relay = house.get()
    answer = plan(relay, "--topology", "numa:1 core:0 pu:1")
    assert answer.returncode == 1
    assert "neither a readable XML file" in answer.stderr
