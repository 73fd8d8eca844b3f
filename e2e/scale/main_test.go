package scale_test

import (
	"os"
	"testing"

	"github.com/overspan/overspan/e2e/scale"
)

func TestMain(m *testing.M) {
	scale.RunServer()
	os.Exit(m.Run())
}
