#!/bin/sh
# The one command of a fresh machine: sets up what is missing, then does what it is asked.
set -eu
cd "$(dirname "$0")"

VENV=.venv
APT_PACKAGES=

usage() {
	cat <<'END'
usage: ./do COMMAND [ARGUMENT...]

  install            set up .venv with drivebay and its tools
  demo               boot a Linux guest on a drivebay disk
  test [PYTEST...]   run all tests, those with real guests included
  bench [NAME...]    measure, all or the named parts
  lint               check style and types
  fuzz [SECONDS [OPTION...]]
                     run every fuzz target, 60 seconds each unless said
  nightly            10 000 power cuts of each image format, of ext4 and of SQLite, 200 kills,
                     1 000 starts of KVM and slow guests on it, long fuzzing
END
}

say() { printf '%s\n' "do: $*" >&2; }

die() {
	printf '%s\n' "error: $1" >&2
	shift
	for hint in "$@"; do printf '%s\n' "hint: $hint" >&2; done
	exit 1
}

# need PACKAGE: as root install it, else remember it for the one command that does.
need() {
	if can_install; then
		say "installing $*"
		[ -n "${APT_UPDATED-}" ] || apt-get -qq update || die "apt-get update failed" "is the network up?"
		APT_UPDATED=yes
		DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >/dev/null ||
			die "cannot install $*" "run: apt-get install $*"
	else
		APT_PACKAGES="$APT_PACKAGES $*"
	fi
}

# Stop with the one command that installs what `need` could not.
check_needs() {
	[ -z "$APT_PACKAGES" ] || die "missing on this system:$APT_PACKAGES" \
		"sudo apt-get install -y$APT_PACKAGES"
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

can_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# The distribution's own Python comes first: it is built with profile-guided optimisation, and runs
# our data path a quarter faster than one that is not.
find_python() {
	second=
	for python in ${PYTHON:-} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
		command -v "$python" >/dev/null && is_recent "$python" || continue
		if can_install || has_venv "$python"; then
			command -v "$python"
			return
		fi
		second=${second:-$(command -v "$python")}
	done
	[ -n "$second" ] && printf '%s\n' "$second"
}

# The Debian package that makes `PYTHON -m venv` work.
venv_package() { printf '%s-venv\n' "$(basename "$1")"; }

# is_of PYTHON: whether .venv works and was made with PYTHON.
is_of() {
	which='import sys; print(sys.base_prefix, sys.version)'
	"$VENV/bin/python" -m pip --version >/dev/null 2>&1 &&
		[ "$("$VENV/bin/python" -c "$which")" = "$("$1" -c "$which")" ]
}

# What the environment in .venv was made for; a change makes it anew.
stamp_of() { printf '%s %s %s\n' "$PWD" "$("$1" --version)" "$(cat pyproject.toml uv.lock | cksum)"; }

# install GROUP...: have .venv with drivebay and the dependency groups; instant when it is there.
install() {
	python=$(find_python) || python=
	if [ -n "$python" ] && is_current "$@"; then
		return 0
	fi
	if [ -z "$python" ]; then
		need python3 python3-venv
	elif ! has_venv "$python"; then
		need "$(venv_package "$python")"
	fi
	if command -v apt-get >/dev/null && [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
		need debian-archive-keyring
	fi
	check_needs
	[ -n "$python" ] || python=$(find_python) ||
		die "Python 3.11 or newer is needed, this system's is older" \
			"install one and name it: PYTHON=/path/to/python3 ./do install"
	say "setting up $VENV with $("$python" --version)"
	is_of "$python" || "$python" -m venv --clear "$VENV" ||
		die "cannot create $VENV with $python"
	[ -x "$VENV/bin/uv" ] || "$VENV/bin/python" -m pip install -q uv ||
		die "pip cannot install uv" "is the network up?"
	sync_packages "$@" || die "uv cannot install the packages" "is the network up?"
	for group in "$@"; do stamp_of "$python" >"$VENV/stamp-$group"; done
}

# is_current GROUP...: whether .venv was made for these groups as they are now.
is_current() {
	stamp=$(stamp_of "$python")
	for group in "$@"; do
		[ "$(cat "$VENV/stamp-$group" 2>/dev/null)" = "$stamp" ] || return 1
	done
}

sync_packages() {
	options=
	for group in "$@"; do options="$options --group $group"; done
	# --inexact keeps uv itself and the groups of an earlier call.
	# shellcheck disable=SC2086
	UV_PROJECT_ENVIRONMENT=$VENV UV_PYTHON=$VENV/bin/python \
		"$VENV/bin/uv" sync -q --frozen --inexact $options
}

# part NAME MARKER [PYTEST...]: run one half of the tests.
part() {
	name=$1 marker=$2
	shift 2
	say "$name tests"
	code=0
	"$VENV/bin/python" -m pytest -m "$marker" -n 2 --junit-xml="build/tests-$name.xml" "$@" || code=$?
	# 5: no test chosen, which is fine for one half when arguments choose.
	[ "$code" -eq 0 ] || { [ "$code" -eq 5 ] && [ $# -gt 0 ]; } || failed=1
}

# What tests and benchmarks compare with: the tools of others, by the packages that have them.
tools() {
	cat <<'END'
nbdkit nbdkit nbdkit-plugin-python
nbdcopy libnbd-bin
fio fio
qemu-img qemu-utils
cryptsetup cryptsetup-bin
mformat mtools
sqlite3 sqlite3
debugfs e2fsprogs
losetup mount
npm npm
tshark tshark
rsvg-convert librsvg2-bin
END
}

# What the tiny kernel of the nightly tests is compiled with.
kernel_tools() {
	cat <<'END'
make make
gcc gcc libc6-dev
flex flex
bison bison
bc bc
xz xz-utils
mke2fs e2fsprogs
END
	[ -e /usr/include/gelf.h ] || echo "gelf.h libelf-dev"
}

# need_tools [LIST]: who cannot install them sees which tests are skipped for that.
need_tools() {
	missing=$(${1:-tools} | while read -r tool packages; do
		command -v "$tool" >/dev/null || printf ' %s' "$packages"
	done)
	[ -n "$missing" ] || return 0
	# shellcheck disable=SC2086
	can_install && (need $missing) || say "tests are skipped without$missing"
}

run_tests() {
	"$VENV/bin/python" -m drivebay.guests.fetch
	mkdir -p build
	rm -f build/tests-*.xml
	failed=0
	part unit "not guest and not nightly" "$@"
	part guest "guest and not nightly" "$@"
	"$VENV/bin/python" - build/tests-unit.xml build/tests-guest.xml <<'END'
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

reports = filter(Path.exists, map(Path, sys.argv[1:]))
suites = [suite for name in reports for suite in ET.parse(name).iter("testsuite")]
count = {key: sum(int(suite.get(key, 0)) for suite in suites)
         for key in ("tests", "failures", "errors", "skipped")}
passed = 2 * count["tests"] - sum(count.values())
print(f"do: {passed} passed, {count['failures'] + count['errors']} failed, {count['skipped']} skipped")
END
	return "$failed"
}

run_lint() {
	"$VENV/bin/ruff" check .
	"$VENV/bin/ruff" format --check .
	"$VENV/bin/mypy"
}

# fuzz_one TARGET: what it prints is kept, and shown if it finds something.
fuzz_one() {
	name=$(basename "$1" .py)
	corpus=build/$name
	mkdir -p "$corpus"
	# $fuzz_options is split: it is a list
	if "$VENV/bin/python" -m "fuzz.$name" -max_total_time="$seconds" -print_final_stats=1 \
		-artifact_prefix="$corpus-" $fuzz_options "$corpus" >"$corpus.log" 2>&1; then
		say "$name: $(grep '^Done' "$corpus.log")"
	else
		cat "$corpus.log"
		say "$name: a find, or it does not run"
		return 1
	fi
}

# run_fuzz [SECONDS [OPTION...]]: all targets, two at a time, with these options of libFuzzer.
run_fuzz() {
	seconds=${1:-60}
	[ $# -eq 0 ] || shift
	fuzz_options=$*
	failed=0
	set -- fuzz/fuzz_*.py
	say "$# targets for $seconds s each"
	while [ $# -gt 0 ]; do
		fuzz_one "$1" &
		first=$!
		shift
		if [ $# -gt 0 ]; then
			fuzz_one "$1" || failed=1
			shift
		fi
		wait "$first" || failed=1
	done
	return "$failed"
}

# More of what chance decides than a test run has the time for.
run_nightly() {
	code=0
	DRIVEBAY_POWER_CUTS=10000 DRIVEBAY_KILLS=200 "$VENV/bin/python" -m pytest -n 2 --timeout=0 \
		tests/formats tests/layers/test_sql_faults.py tests/qcow2/test_power_cut.py \
		tests/vhd/test_power_cut.py tests/lab/test_powercut_nightly.py || code=1
	"$VENV/bin/python" -m drivebay.guests.tiny || code=1
	DRIVEBAY_NIGHTLY=1 DRIVEBAY_STARTS=1000 "$VENV/bin/python" -m pytest --timeout=0 \
		-m "nightly or not nightly" tests/kvm tests/guest/test_replay.py \
		tests/lab/compare/test_guest.py || code=1
	run_fuzz "${1:-600}" || code=1
	return "$code"
}

[ $# -gt 0 ] || {
	usage
	exit 1
}
command=$1
shift
case $command in
install)
	install dev
	say "ready: $VENV/bin/drivebay --help"
	;;
demo)
	install dev
	exec "$VENV/bin/drivebay" demo "$@"
	;;
test)
	install dev
	need_tools
	run_tests "$@"
	;;
bench)
	install dev
	command -v cc >/dev/null || need gcc libc6-dev
	need_tools
	check_needs
	exec "$VENV/bin/python" -m benchmarks "$@"
	;;
lint)
	install dev
	run_lint
	;;
fuzz)
	install dev fuzz
	run_fuzz "$@"
	;;
nightly)
	install dev fuzz
	need_tools
	need_tools kernel_tools
	run_nightly "$@"
	;;
-h | --help | help) usage ;;
*)
	usage >&2
	die "there is no command '$command'"
	;;
esac
