package scale_test

import (
	"os"
	"testing"

	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/e2e/scale"
)

func TestMain(m *testing.M) {
	scale.RunServer()
	lab.RunRole()
	os.Exit(m.Run())
}
