#!/bin/sh
# Runs, in a machine, the tests that meet its kernel: those of the drivers and of
# the rules whole, of the end-to-end tests those that a machine can run which has no
# Go and may be emulated, ten times as slow as another: they wait ten times as long,
# and send a tenth of the packets. As root; everything runs, and then it says what has
# failed.
#
#     kernel.sh [PACKAGE...]      SCENARIOS='REGEXP...' TIMEOUT=90m (of each package)
set -eu
tree=/overspan
programs=$tree/vagrant/programs
scenarios=${SCENARIOS:-TestScenario22_Conflicts TestScenario22_Lost}
if [ -z "${SCENARIOS-}" ]; then
	# Not those of thousands of addresses, changes and packets, and of etcd's absence.
	for number in 01 02 03 04 05 06 09 10 11 12 13 14 15 16 17 18 19 23 24 27 28 29 30 31 32 33 34 35 36 37 38; do
		scenarios="$scenarios TestScenario${number}_"
	done
fi
[ $# -gt 0 ] || set -- kernel bridge overlay e2e

uname -r
failed=
# run runs the tests of a package, in its directory, as go test does.
run() {
	package=$1
	shift
	echo "== $package"
	cd "$tree/$package"
	"$programs/$package.test" -test.timeout "${TIMEOUT:-90m}" "$@" || failed="$failed $package"
}
# Each names a test, before any is run: one that was renamed would be missed by nobody.
case " $* " in *" e2e "*)
	for scenario in $scenarios; do
		[ -n "$("$programs/e2e.test" -test.list "$scenario")" ] || { echo "no end-to-end test is called $scenario" >&2 && exit 2; }
	done
	;;
esac
for package; do
	case $package in
	e2e)
		OVERSPAN_E2E_RACE=0 OVERSPAN_E2E_PROGRAMS=$programs OVERSPAN_E2E_PATIENCE=${PATIENCE:-10} \
			run e2e -test.v -test.parallel 1 -test.run "$(echo "$scenarios" | tr ' ' '|')"
		;;
	*) run "$package" ;;
	esac
done
[ -z "$failed" ] || { echo "FAIL:$failed" >&2 && exit 1; }
