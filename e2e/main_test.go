package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

// otherVersion is that of otherBinaries.
const otherVersion = "9.9.9-other"

// raceVar set to 0 builds the agents without the race detector.
const raceVar = "OVERSPAN_E2E_RACE"

// programsVar names a directory with ctl, fast/agent, stepped/agent and other/agent,
// for a machine that cannot build: together with raceVar.
const programsVar = "OVERSPAN_E2E_PROGRAMS"

// patienceVar is lab.Patience, a whole number.
const patienceVar = "OVERSPAN_E2E_PATIENCE"

func TestMain(m *testing.M) {
	lab.RunRole()
	os.Exit(runTests(m))
}

// binDir is where this run's agent and ctl are built.
var binDir string

func runTests(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: the lab makes namespaces: run as root, or under unshare -Urnm")
		return 1
	}
	if text := os.Getenv(patienceVar); text != "" {
		times, err := strconv.Atoi(text)
		if err != nil {
			fmt.Fprintf(os.Stderr, "e2e: %s: %v\n", patienceVar, err)
			return 1
		}
		lab.Patience = time.Duration(times)
	}
	dir, err := os.MkdirTemp("", "overspan-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	binDir = dir
	return m.Run()
}

// checkedBinaries have the race detector, fastBinaries have not: they are for
// measurements and for labs of many nodes. steppedBinaries have it, and can be
// stopped between two steps; otherBinaries have it, and are of another version.
// Each is built once, when first asked for.
var (
	checkedBinaries = sync.OnceValues(func() (lab.Binaries, error) {
		if os.Getenv(raceVar) == "0" {
			return fastBinaries()
		}
		return buildChecked("checked")
	})
	fastBinaries = sync.OnceValues(func() (lab.Binaries, error) {
		return buildAgent("fast")
	})
	steppedBinaries = sync.OnceValues(func() (lab.Binaries, error) {
		return buildChecked("stepped", "-tags=steps")
	})
	otherBinaries = sync.OnceValues(func() (lab.Binaries, error) {
		return buildChecked("other", "-ldflags=-X github.com/overspan/overspan.Version="+otherVersion)
	})
)

// besideAgents are what runs beside all of those agents: ctl, and the labs' parts.
var besideAgents = sync.OnceValues(func() (lab.Binaries, error) {
	bin := lab.Binaries{Ctl: binDir + "/ctl", Part: binDir + "/part"}
	err := lab.BuildProgram(context.Background(), bin.Ctl, "./ctl")
	return bin, errors.Join(err, lab.BuildProgram(context.Background(), bin.Part, "./e2e/part"))
})

// buildChecked builds an agent with the race detector, unless it is switched off.
func buildChecked(name string, flags ...string) (lab.Binaries, error) {
	if os.Getenv(raceVar) != "0" {
		flags = append(flags, "-race")
	}
	return buildAgent(name, flags...)
}

// buildAgent builds an agent into a directory of its own, and puts ctl beside it, as
// where they are installed; or finds it there built.
func buildAgent(name string, flags ...string) (lab.Binaries, error) {
	if dir := os.Getenv(programsVar); dir != "" {
		return lab.Binaries{Agent: filepath.Join(dir, name, "agent"), Ctl: filepath.Join(dir, "ctl")}, nil
	}
	bin, err := besideAgents()
	if err != nil {
		return lab.Binaries{}, err
	}
	beside := bin.Ctl
	bin.Agent, bin.Ctl = fmt.Sprintf("%s/%s/agent", binDir, name), fmt.Sprintf("%s/%s/ctl", binDir, name)
	if err := lab.BuildProgram(context.Background(), bin.Agent, "./agent", flags...); err != nil {
		return lab.Binaries{}, err
	}
	return bin, os.Link(beside, bin.Ctl)
}
