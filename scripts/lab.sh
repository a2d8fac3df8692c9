# The lab of scripts/lab and scripts/quickstart: a relay's host and a peers' host, two network
# namespaces joined by a veth pair. Sourced, after lib.sh. The script sets
#   lab         the folder that holds all that belongs to this lab
#   ns_relay, ns_peers   the names of its namespaces
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # what the script uses and sets

viaductd=$root/build/control/viaductd
viaduct=$root/build/client/viaduct

in_peers()
{
	ip netns exec "$ns_peers" "$@"
}

# network_up QUEUES: makes the namespaces and the link. They are noted first, so that whatever
# ends this script, network_down knows that they are ours.
network_up()
{
	local queues=$1 ns
	for ns in "$ns_relay" "$ns_peers"; do
		[ ! -e "/run/netns/$ns" ] ||
			die "there is a network namespace $ns already, not made from this tree;" \
				"take it away with: ip netns del $ns"
	done
	touch "$lab/network"
	{ ip netns add "$ns_relay" && ip netns add "$ns_peers"; } ||
		die "no network namespaces here; a container must be allowed CAP_SYS_ADMIN for them"
	for ns in "$ns_relay" "$ns_peers"; do
		ip -n "$ns" link set lo up
		# no duplicate address detection, no router solicitations: ready at once, and quiet
		ip netns exec "$ns" sysctl -q -w net.ipv6.conf.default.accept_dad=0 \
			net.ipv6.conf.default.router_solicitations=0
	done
	ip -n "$ns_relay" link add relay0 numtxqueues "$queues" numrxqueues "$queues" type veth \
		peer name peers0 netns "$ns_peers" numtxqueues "$queues" numrxqueues "$queues"
	ip -n "$ns_relay" addr add 10.77.0.1/24 dev relay0
	ip -n "$ns_relay" addr add fd77::1/64 dev relay0 nodad
	ip -n "$ns_peers" addr add 10.77.0.2/24 dev peers0
	ip -n "$ns_peers" addr add fd77::2/64 dev peers0 nodad
	ip -n "$ns_relay" link set relay0 up
	ip -n "$ns_peers" link set peers0 up
	# as a host's interface has one: veth holds 256 packets and drops what comes on top, unless a
	# queue in front of it can be told to wait (since Linux 6.16)
	tc -n "$ns_peers" qdisc add dev peers0 root pfifo limit 10000
}

network_down()
{
	[ -e "$lab/network" ] || return 0
	# The link first: a namespace lives as long as a process in it.
	ip -n "$ns_relay" link del relay0 2>/dev/null || true
	ip netns del "$ns_relay" 2>/dev/null || true
	ip netns del "$ns_peers" 2>/dev/null || true
	rm -f "$lab/network"
}

# pki_make PEERS: a new federation "lab" in $lab/pki: ca, relay, peer-1 … peer-PEERS.
pki_make()
{
	rm -rf "$lab/pki"
	"$viaduct" cert init "$lab/pki" --federation lab &&
		"$viaduct" cert issue "$lab/pki" relay --relay --address 10.77.0.1 --address fd77::1 &&
		"$viaduct" cert issue "$lab/pki" --count "$1" --prefix peer-
} >/dev/null

# relay_config DRIVER WORKERS POLLING
relay_config()
{
	cat >"$lab/viaductd.yaml" <<END
tls:
  certificate: $lab/pki/relay.pem
  key: $lab/pki/relay.key
  ca: $lab/pki/ca.pem
control:
  listen: ["10.77.0.1:7740", "[fd77::1]:7740"]
  admin: $lab/viaduct.sock
data:
  interface: relay0
  driver: $1
  port: 7740
  workers: $2
  polling: $3
END
}

# The relay's process id, if it runs: the id in the file may be another's by now.
relay_pid()
{
	local pid
	pid=$(cat "$lab/viaductd.pid" 2>/dev/null) || return 1
	{ [[ $(tr '\0' ' ' <"/proc/$pid/cmdline") == *" -c $lab/viaductd.yaml "* ]]; } 2>/dev/null ||
		return 1
	echo "$pid"
}

# Starts viaductd in its namespace, in a session of its own, and waits until it is ready.
# At the niceness $relay_nice, as far as that is allowed.
relay_start()
{
	local i
	rm -f "$lab/viaductd.pid"
	: >"$lab/viaductd.log" # that of the last one says ready
	# shellcheck disable=SC2016  # sh is to expand it
	setsid nice -n "${relay_nice:-0}" sh -c 'echo $$ >"$0" && exec "$@"' "$lab/viaductd.pid" \
		ip netns exec "$ns_relay" "$viaductd" -c "$lab/viaductd.yaml" \
		>>"$lab/viaductd.log" 2>&1 </dev/null 9>&- &
	disown
	for ((i = 0; i < 300; i++)); do
		! grep -q 'msg=ready' "$lab/viaductd.log" || return 0
		[ ! -s "$lab/viaductd.pid" ] || relay_pid >/dev/null || break
		sleep 0.1
	done
	relay_log
	die "viaductd did not get ready"
}

# What the relay's log says at its end, to stderr: complaints rather than who has come and gone.
relay_log()
{
	[ -s "$lab/viaductd.log" ] || return 0
	printf 'From the end of %s:\n' "$lab/viaductd.log" >&2
	{ grep -v 'level=info' "$lab/viaductd.log" || tail -n 5 "$lab/viaductd.log"; } |
		tail -n 15 >&2
}

# Ends the relay if it runs: in order, or after 10 s by force.
relay_stop()
{
	local pid i
	if pid=$(relay_pid); then
		kill -TERM "$pid"
		for ((i = 0; i < 100; i++)); do
			relay_pid >/dev/null || break
			sleep 0.1
		done
		! relay_pid >/dev/null || kill -KILL "$pid"
	fi
	rm -f "$lab/viaductd.pid"
}

# Takes down whatever there is of this lab; what is not there is no error.
lab_down()
{
	relay_stop || true
	network_down
}
