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
			status := "1"
			if test.chroot {
				status = "0"
			}
			write(t, filepath.Join(dir, "agent"), `#!/bin/sh
echo "$*${OVERSPAN_STATE_DIR+ state=$OVERSPAN_STATE_DIR}${OVERSPAN_RUN_DIR+ run=$OVERSPAN_RUN_DIR}${OVERSPAN_LISTEN+ listen=$OVERSPAN_LISTEN}" >>called
`)
			write(t, filepath.Join(dir, "ischroot"), "#!/bin/sh\nexit "+status+"\n")
			if test.settings != "" {
				write(t, filepath.Join(dir, "default"), test.settings)
			}
			got := maintain(t, dir, "prerm", test.action)
			if strings.TrimSuffix(got, "\n") != test.want {
				t.Errorf("the agent is told %q, want %q", got, test.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "executed")); err == nil {
				t.Error("the settings were executed")
			}
		})
	}
}

// TestInstallationTellsWhoReadsItsFiles runs postinst where the services of the
// network run, each by itself, and where none does.
func TestInstallationTellsWhoReadsItsFiles(t *testing.T) {
	for running, want := range map[string]string{
		"systemd-networkd": "networkctl reload\n",
		"NetworkManager":   "nmcli general reload conf\n",
		"none":             "",
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, quiet := range []string{"deb-systemd-helper", "deb-systemd-invoke"} {
			write(t, filepath.Join(dir, quiet), "#!/bin/sh\n")
		}
		write(t, filepath.Join(dir, "systemctl"), "#!/bin/sh\ncase $* in *is-active\\ "+running+".service | *daemon-reload) ;; *) exit 3 ;; esac\n")
		for _, told := range []string{"networkctl", "nmcli"} {
			write(t, filepath.Join(dir, told), "#!/bin/sh\necho "+told+" $* >>called\n")
		}
		if got := maintain(t, dir, "postinst", "configure"); got != want {
			t.Errorf("%s runs: %q, want %q", running, got, want)
		}
	}
}

// maintain runs a script of the package in a directory, which has stand-ins for
// what it calls and for what it looks at. It returns the file "called".
func maintain(t *testing.T, dir, script, action string) string {
	t.Helper()
	raw, err := os.ReadFile("debian/" + script)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("/usr/sbin/agent", dir+"/agent", "/etc/default/overspan", dir+"/default",
		"/run/systemd/system", dir+"/run", "/etc/systemd", dir+"/etc").Replace(string(raw))
	write(t, filepath.Join(dir, script), text)
	cmd := exec.Command("sh", "./"+script, action)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	called, err := os.ReadFile(filepath.Join(dir, "called"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(called)
}

// write makes a program, or any other file.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
