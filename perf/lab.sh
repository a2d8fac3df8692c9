#!/bin/bash
# Runs perf/@name@.c in a network of its own, with certificates and configurations. Built as
# build/perf/@name@.
# shellcheck disable=SC1091,SC2034  # meson fills in where the others are, which use the variables
set -euo pipefail
. "@root@/scripts/lib.sh"
me=@name@ build=@build@
lab=$build/@name@ ns_relay=viaduct-@name@-relay ns_peers=viaduct-@name@-peers
. "@root@/scripts/lab.sh"
viaduct=$build/client/viaduct

peers=@peers@ bystanders=@bystanders@ engine='' threads=0 arguments=()
while [ $# != 0 ]; do
	case $1 in
		--peers) peers=${2-} ;;
		--bystanders) bystanders=${2-} ;;
		--engine)
			engine=${2-}
			shift $(($# > 1 ? 2 : 1))
			continue
			;;
		--threads)
			threads=${2-}
			shift $(($# > 1 ? 2 : 1))
			continue
			;;
		-h | --help) exec "$build/perf/@name@-peers" --help ;;
	esac
	arguments+=("$1")
	shift
done
whole_number --peers "$peers" 1 20000
whole_number --bystanders "$bystanders" 0 20000
whole_number --threads "$threads" 0 64
[ "$(id -u)" = 0 ] || die "needs root, for network namespaces and AF_XDP"

finish()
{
	local status=$?
	trap '' INT TERM HUP
	job_stop
	network_down
	exit $status
}

mkdir -p "$lab"
exec 9>"$lab/lock"
flock -n 9 || die "another one is running in this tree"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
network_down # what a killed one has left
rm -f "$lab/viaductd.log" "$lab/tickets" "$lab/revoked"

# Certificates are made once for so many.
total=$((peers + bystanders))
if [ ! -e "$lab/pki/peer-$total.key" ]; then
	run pki_make "$total"
fi
network_up 1

# config FILE SESSIONS: all peers come from one address here, which no limit for a source allows.
config()
{
	relay_config af_xdp 1 adaptive
	sed -i '/^tls:/a\  tickets: '"$lab/tickets" "$lab/viaductd.yaml"
	cat >>"$lab/viaductd.yaml" <<END
session:
  max: $2
services:
  slow_start: 100
  names:
$(printf '    - {name: %s, policy: %s}\n' round_robin{,} weighted{,} least_outstanding{,} response_time{,} proximity{,})
limits:
  source_handshakes: 10000
  source_handshakes_per_second: 100000
trust:
  revoked: $lab/revoked
END
	printf 'crypto:\n  threads: %s\n' "$threads" >>"$lab/viaductd.yaml"
	[ -z "$engine" ] ||
		printf '  engine: %s\n  required: yes\n' "$engine" >>"$lab/viaductd.yaml"
	mv "$lab/viaductd.yaml" "$lab/$1.yaml"
}
config small 100
config large "$total"

export LAB_FOLDER=$lab LAB_RELAY=$ns_relay LAB_BUILD=$build
run ip netns exec "$ns_peers" "$build/perf/@name@-peers" "${arguments[@]}" 9>&-
