#!/bin/sh
# Runs, in a machine, the tests that meet its kernel: those of the drivers and of
# the rules whole, of the end-to-end tests some that together meet each kind of
# object, but none that keeps a rate, builds, or asks agents to be done in time: the
# machine may be emulated, ten times as slow as another, and has no Go. As root;
# everything runs, and then it says what has failed.
#
#     kernel.sh [PACKAGE...]      SCENARIOS='REGEXP...' TIMEOUT=20m (of each package)
set -eu
tree=/overspan
programs=$tree/vagrant/programs
scenarios=${SCENARIOS:-TestScenario09_ TestScenario10_ TestScenario27_}
[ $# -gt 0 ] || set -- kernel bridge overlay e2e

uname -r
failed=
# run runs the tests of a package, in its directory, as go test does.
run() {
	package=$1
	shift
	echo "== $package"
	cd "$tree/$package"
	"$programs/$package.test" -test.timeout "${TIMEOUT:-20m}" "$@" || failed="$failed $package"
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
