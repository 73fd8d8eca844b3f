package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Binaries are the programs that a lab runs. Part plays the lab's parts: see
// RunRole; where it is empty, the program does that the lab is in.
type Binaries struct{ Agent, Ctl, Part string }

// Build builds agent and ctl into a directory, the agent with these flags of go
// build: "-race", or "-tags=steps" for one that StopAt can stop.
func Build(ctx context.Context, dir string, flags ...string) (Binaries, error) {
	bin := Binaries{Agent: filepath.Join(dir, "agent"), Ctl: filepath.Join(dir, "ctl")}
	if err := BuildProgram(ctx, bin.Agent, "./agent", flags...); err != nil {
		return Binaries{}, err
	}
	return bin, BuildProgram(ctx, bin.Ctl, "./ctl")
}

// BuildProgram builds one of the module's programs, with these flags of go build. It
// must be called from within the module.
func BuildProgram(ctx context.Context, path, program string, flags ...string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	args := append(append([]string{"build", "-o", path}, flags...), program)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", shown(args...), err, out)
	}
	return nil
}
