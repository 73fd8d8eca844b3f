package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRemovalCleansUpAsTheAgentRan runs prerm with stand-ins for what it calls, and
// looks at how it calls the agent.
func TestRemovalCleansUpAsTheAgentRan(t *testing.T) {
	for _, test := range []struct {
		name     string
		action   string
		settings string // of /etc/default/overspan
		chroot   bool
		want     string // what the agent is told; empty: it is not called
	}{
		{name: "defaults", action: "remove", want: "--cleanup"},
		{
			name: "as the service", action: "remove",
			settings: "# of systemd\nOVERSPAN_STATE_DIR=/srv/former\n OVERSPAN_STATE_DIR=\"/srv/a b\" \nOVERSPAN_RUN_DIR='/run/c'\n#OVERSPAN_LISTEN=unix:///no\n",
			want:     "--cleanup state=/srv/a b run=/run/c",
		},
		{
			name: "no shell script", action: "remove",
			settings: "OVERSPAN_ETCD_PASSWORD=a&touch executed;x(y\nOVERSPAN_STATE_DIR=/srv/$(touch executed)`touch executed`\n",
			want:     "--cleanup state=/srv/$(touch executed)`touch executed`",
		},
		{name: "chroot", action: "remove", chroot: true},
		{name: "upgrade", action: "upgrade"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			called := filepath.Join(dir, "called")
			status := "1"
			if test.chroot {
				status = "0"
			}
			write(t, filepath.Join(dir, "agent"), `#!/bin/sh
echo "$*${OVERSPAN_STATE_DIR+ state=$OVERSPAN_STATE_DIR}${OVERSPAN_RUN_DIR+ run=$OVERSPAN_RUN_DIR}${OVERSPAN_LISTEN+ listen=$OVERSPAN_LISTEN}" >`+called+"\n")
			write(t, filepath.Join(dir, "ischroot"), "#!/bin/sh\nexit "+status+"\n")
			if test.settings != "" {
				write(t, filepath.Join(dir, "default"), test.settings)
			}
			script, err := os.ReadFile("debian/prerm")
			if err != nil {
				t.Fatal(err)
			}
			text := strings.NewReplacer("/usr/sbin/agent", dir+"/agent", "/etc/default/overspan", dir+"/default",
				"/run/systemd", dir+"/nowhere", "/etc/systemd", dir+"/nowhere").Replace(string(script))
			write(t, filepath.Join(dir, "prerm"), text)
			cmd := exec.Command("sh", "./prerm", test.action)
			cmd.Dir = dir
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			got, err := os.ReadFile(called)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if strings.TrimSuffix(string(got), "\n") != test.want {
				t.Errorf("the agent is told %q, want %q", got, test.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "executed")); err == nil {
				t.Error("the settings were executed")
			}
		})
	}
}

// write makes a program, or any other file.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
