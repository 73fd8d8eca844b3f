package lab

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Binaries are the programs that a lab runs.
type Binaries struct{ Agent, Ctl string }

// Build builds the programs into a directory, with the race detector if asked.
// It must be called from within the module.
func Build(ctx context.Context, dir string, race bool) (Binaries, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("find the module: %w", err)
	}
	args := []string{"build", "-o", dir + "/"}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./agent", "./ctl")...)
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return Binaries{}, fmt.Errorf("build agent and ctl: %w\n%s", err, out)
	}
	return Binaries{Agent: filepath.Join(dir, "agent"), Ctl: filepath.Join(dir, "ctl")}, nil
}
