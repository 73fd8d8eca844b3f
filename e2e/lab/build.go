package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Binaries are the programs that a lab runs.
type Binaries struct{ Agent, Ctl string }

// Build builds the programs into a directory, the agent with these flags of go
// build: "-race", or "-tags=steps" for one that StopAt can stop. It must be
// called from within the module.
func Build(ctx context.Context, dir string, flags ...string) (Binaries, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("find the module: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Binaries{}, err
	}
	bin := Binaries{Agent: filepath.Join(dir, "agent"), Ctl: filepath.Join(dir, "ctl")}
	agent := append([]string{"build", "-o", bin.Agent}, flags...)
	for _, args := range [][]string{append(agent, "./agent"), {"build", "-o", bin.Ctl, "./ctl"}} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = strings.TrimSpace(string(root))
		if out, err := cmd.CombinedOutput(); err != nil {
			return Binaries{}, fmt.Errorf("go %s: %w\n%s", shown(args...), err, out)
		}
	}
	return bin, nil
}
