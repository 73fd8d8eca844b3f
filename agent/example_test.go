package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// TestExampleNamesEverySetting: deploy/agent.yaml, with its comments taken away
// where they hide a setting, is read by this agent and lacks no flag.
func TestExampleNamesEverySetting(t *testing.T) {
	text, err := os.ReadFile("../deploy/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// A setting has no space behind the '#', a sentence has.
	bare := regexp.MustCompile(`(?m)^#(\S|  - )`).ReplaceAllString(string(text), "$1")
	var doc map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(bare), &doc); err != nil {
		t.Fatal(err)
	}
	f := (&config{}).flags()
	for name, node := range doc {
		var values []string
		if node.Kind == yaml.SequenceNode {
			if err := node.Decode(&values); err != nil {
				t.Fatal(err)
			}
		} else {
			values = []string{node.Value}
		}
		if f.Lookup(name) == nil {
			t.Errorf("%s is no setting", name)
		} else if err := f.Set(name, strings.Join(values, ",")); err != nil {
			t.Error(err)
		}
	}
	// Of what is not in the file, the password is a secret; the rest is said on
	// the command line alone.
	f.VisitAll(func(flag *pflag.Flag) {
		if _, there := doc[flag.Name]; !there && !slices.Contains([]string{"config", "etcd-password", "cleanup", "version"}, flag.Name) {
			t.Errorf("the example lacks %s", flag.Name)
		}
	})

	// As it is installed it says nothing but what is asked for.
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, append(text, "interface: eth0\netcd-endpoints: http://192.0.2.1:2379\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := parse([]string{"--config", path}, nil, io.Discard); err != nil {
		t.Error(err)
	}
}

// TestComposeNamesSettings: the variables that compose.yaml gives the agent are
// its flags.
func TestComposeNamesSettings(t *testing.T) {
	text, err := os.ReadFile("../deploy/container/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f := (&config{}).flags()
	names := regexp.MustCompile(`OVERSPAN_[A-Z_]+`).FindAllString(string(text), -1)
	if len(names) == 0 {
		t.Error("compose.yaml gives the agent no variable")
	}
	for _, name := range names {
		flag := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "OVERSPAN_"), "_", "-"))
		if f.Lookup(flag) == nil {
			t.Errorf("%s is no setting", name)
		}
	}
}
