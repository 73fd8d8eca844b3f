package main

import (
	"strings"
	"testing"
)

func TestWithoutNode(t *testing.T) {
	for line, want := range map[string]string{
		"--node h2 network ls":               "network ls",
		"--node=h2 network ls":               "network ls",
		"-o json --node h2 node ls":          "-o json node ls",
		"--node h2 run -- COMMAND --node h3": "run -- COMMAND --node h3",
		"network ls":                         "network ls",
		"--node":                             "",
	} {
		if got := strings.Join(withoutNode(strings.Fields(line)), " "); got != want {
			t.Errorf("%q is %q without its node, want %q", line, got, want)
		}
	}
}
