package scale_test

import (
	"os"
	"runtime/debug"
	"testing"

	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/e2e/scale"
)

func TestMain(m *testing.M) {
	scale.RunServer()
	// One heap of hundreds of agents: a collection looks at all of them.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(13 << 30)
	lab.RunRole()
	os.Exit(m.Run())
}
