# Shared by the scripts in this folder: sourced, never run.
# shellcheck shell=bash
# shellcheck disable=SC2034  # what the scripts use

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
me=$(basename "$0")
python=/usr/bin/python3 # Debian's, which has the modules, whatever else is in PATH

say()
{
	printf '%s\n' "$*"
}

die()
{
	printf '%s: %s\n' "$me" "$*" >&2
	exit 1
}

# Wrong usage has an exit code of its own, as in most tools.
die_usage()
{
	printf '%s: %s\nTry: scripts/%s --help\n' "$me" "$*" "$me" >&2
	exit 2
}

need_root()
{
	[ "$(id -u)" = 0 ] || die "needs root, for network namespaces and AF_XDP; try: sudo scripts/$me"
}

# whole_number OPTION VALUE MIN MAX: leaves the script unless VALUE is one in that range.
whole_number()
{
	if ! [[ $2 =~ ^[0-9]{1,10}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
		die_usage "$1 wants a whole number from $3 to $4, not '$2'"
	fi
}

# one_of OPTION VALUE ALLOWED…: leaves the script unless VALUE is one of them.
one_of()
{
	local option=$1 value=$2 allowed
	shift 2
	for allowed; do
		[ "$value" != "$allowed" ] || return 0
	done
	die_usage "$option wants one of $*, not '$value'"
}

# run COMMAND…: runs it so that a signal to this script ends it at once: job_stop, in the script's
# EXIT trap, takes it down with all its children.
job=
run()
{
	local status=0
	set -m # a process group of its own
	"$@" </dev/null &
	job=$!
	set +m
	wait "$job" || status=$?
	job=
	return $status
}

job_stop()
{
	[ -n "$job" ] || return 0
	kill -TERM -- "-$job" 2>/dev/null || true
	wait "$job" 2>/dev/null || true
	job=
}

# build_tree DIR MESON-OPTION… [TARGET…]: configures the build tree if it isn't yet, and brings it,
# or those targets, up to date. Says nothing unless it fails.
build_tree()
{
	local dir=$1 log=$1/build.log options=()
	shift
	while [[ ${1-} == -* ]]; do
		options+=("$1")
		shift
	done
	mkdir -p "$dir"
	if [ ! -e "$dir/build.ninja" ]; then
		rm -rf "$dir/meson-private"
		meson setup "$dir" "$root" "${options[@]}" >"$log" 2>&1 || {
			tail -n 20 "$log" >&2
			return 1
		}
	fi
	ninja -C "$dir" "$@" >"$log" 2>&1 || {
		grep -A 20 -m 1 -E '^FAILED|error:' "$log" >&2 || tail -n 20 "$log" >&2
		return 1
	}
}

# What quickstart and the lab run. The same options as scripts/test has, so that they share it.
build_release()
{
	build_tree "$root/build" --buildtype=release
}
