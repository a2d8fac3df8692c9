#!/usr/bin/python3
"""What copying to a topic's members costs: a worker alone, and viaductd beside brokers.

First the worker, over in-memory ports, beside what its core could do at best (perf/fanout.c says
how). Then viaductd, nats-server and mosquitto, the latter with TLS: one publisher and as many
members, the same rate of publications, in the lab of perf/compare. CPU is all time in which the
relay's core was not idle, in seconds per million copies delivered; medians over rounds in which the
relays take turns. What peers receive is the work of their core, as it would be of a host of their
own: veth sees to that only while TSO is off at the relay's end, and their NAPI thread goes before
all else there. With --tso the relay's core does it, for whichever relay. Built as build/perf/fanout.

Needs root, for network namespaces. Daemons that are missing are unpacked into build/compare.
"""

import argparse
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT, BUILD = Path("@root@"), Path("@build@")
RATIO_WANTED = 8


def load(path):
    """A script without a suffix, as a module."""
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.name, loader))
    loader.exec_module(module)
    return module


compare = load(ROOT / "perf/compare")

# all peers come from one address, which no limit for a source allows
CONFIG = compare.viaductd("adaptive") + """\
limits:
  source_handshakes: 10000
  source_handshakes_per_second: 100000
"""
CONTENDERS = [
    compare.Contender("viaduct", "viaductd", "viaduct", compare.VIADUCTD, [1], CONFIG),
    compare.Contender("nats", "nats-server, TLS", "nats", ["nats-server", "-c", "{config}"], [1],
                      compare.NATS),
    compare.Contender("mosquitto", "mosquitto, TLS", "mqtt", ["mosquitto", "-c", "{config}"], [1],
                      compare.MOSQUITTO),
]


def measure(lab, contender, options):
    """One run of one relay, tried again until it is up."""
    command = [BUILD / "perf/fanout-peers", "--through", contender.transport, "--relay",
               compare.RELAY_ADDRESS, "--pki", lab.pki, "--members", options.members, "--payload",
               options.payload, "--rate", options.rate, "--seconds", options.seconds, "--core",
               options.relay_core]
    lab.start(contender)
    try:
        deadline = time.monotonic() + compare.START_S
        while True:
            process = lab.spawn(compare.PEERS, options.client_core, command,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            output, errors = process.communicate()
            lab.processes.remove(process)
            if process.returncode == 0:
                return json.loads(output)
            if lab.processes[0].poll() is not None or time.monotonic() > deadline:
                raise compare.Failure(f"{contender.title}: {errors.strip()}")
            time.sleep(0.2)
    finally:
        lab.stop()


def figures(contender, options):
    return {"name": contender.name, "title": contender.title, "rate": options.rate,
            "cpu_per_million": statistics.median(r["cpu_per_million"] for r in contender.results),
            "relay_busy": statistics.median(r["relay_busy"] for r in contender.results),
            "delivered": sum(r["delivered"] for r in contender.results),
            "lost": sum(r["lost"] for r in contender.results)}


def beside_brokers(options):
    work = BUILD / "compare"
    work.mkdir(parents=True, exist_ok=True)
    lab = compare.Lab(BUILD, work, options.relay_core, options.client_core)
    try:
        compare.install(CONTENDERS, work)
        lab.up(options.members + 1, options.tso)
        for _ in range(options.rounds):
            for contender in CONTENDERS:
                contender.results.append(measure(lab, contender, options))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        lab.down()
    return [figures(contender, options) for contender in CONTENDERS]


def worker(options):
    done = subprocess.run(
        [BUILD / "perf/fanout-worker", "--members", str(options.members), "--payload",
         str(options.payload), "--seconds", str(options.worker_seconds), "--json"],
        stdout=subprocess.PIPE, check=False, text=True)
    if not done.stdout:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def show(result):
    for key, value in result.items():
        if key not in ("compare", "ratios"):
            print(f"{key:24} {value}")
    for one in result["compare"]:
        print(f"{one['title']:24} {one['cpu_per_million']:.3f} CPU s per million copies, core "
              f"{one['relay_busy']:.0%} busy, {one['lost']} lost")
    for name, ratio in result["ratios"].items():
        wanted = f"  (wanted: {RATIO_WANTED})" if name == "nats" else ""
        print(f"{name + ' over viaductd':24} {ratio:.1f}{wanted}")


def options_read():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--payload", type=int, default=256, metavar="BYTES")
    parser.add_argument("--rate", type=int, default=50, metavar="N",
                        help="publications a second to each relay")
    parser.add_argument("--seconds", type=int, default=4, metavar="S", help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker-seconds", type=int, default=10, metavar="S")
    parser.add_argument("--worker", action="store_true", help="only the worker alone")
    parser.add_argument("--tso", action="store_true",
                        help="leave it on: the relay's core does the peers' receiving")
    parser.add_argument("--relay-core", type=int, default=0, metavar="N")
    parser.add_argument("--client-core", type=int, default=1, metavar="N")
    return parser.parse_args()


def main():
    options = options_read()
    result = worker(options)
    result["compare"], result["ratios"] = [], {}
    if not options.worker:
        if os.geteuid():
            sys.exit("fanout: needs root, for network namespaces and AF_XDP")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, compare.interrupted)
        with open("/run/lock/viaduct-compare", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                result["compare"] = beside_brokers(options)
            except compare.Failure as failure:
                sys.exit(f"fanout: {failure}")
        ours = result["compare"][0]["cpu_per_million"]
        result["ratios"] = {one["name"]: one["cpu_per_million"] / ours
                            for one in result["compare"][1:] if ours}
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    sys.exit(result["verdict"] != "ok")


if __name__ == "__main__":
    main()
