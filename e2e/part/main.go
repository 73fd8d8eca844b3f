// Part plays the parts of a lab that are nobody's to test: a host's first process and
// a server of etcd. Tests under the race detector have it built without, because that
// makes etcd several times as slow.
package main

import (
	"fmt"
	"os"

	"github.com/overspan/overspan/e2e/lab"
)

func main() {
	lab.RunRole()
	fmt.Fprintln(os.Stderr, "part: only a lab has parts to play")
	os.Exit(2)
}
