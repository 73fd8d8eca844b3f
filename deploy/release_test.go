package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// packaged are the files of the package, but for those below /usr/share/overspan and
// /usr/share/doc.
var packaged = []string{
	"-rw------- /etc/default/overspan",
	"-rw-r--r-- /etc/overspan/agent.yaml",
	"-rw-r--r-- /lib/systemd/network/01-overspan.link",
	"-rw-r--r-- /lib/systemd/network/01-overspan.network",
	"-rw-r--r-- /lib/systemd/system/overspan-agent.service",
	"-rw-r--r-- /usr/lib/NetworkManager/conf.d/10-overspan.conf",
	"-rw-r--r-- /usr/share/bash-completion/completions/ctl",
	"-rwxr-xr-x /usr/bin/ctl",
	"-rwxr-xr-x /usr/sbin/agent",
}

// TestRelease builds what is released for one architecture, and looks at what a
// user gets.
func TestRelease(t *testing.T) {
	needs(t, "dpkg-deb")
	dist := t.TempDir()
	t.Setenv("VERSION", "v1.2.3")
	t.Setenv("ARCHS", "amd64")
	t.Setenv("DIST", dist)
	if out, err := program(t, "../tools/release.sh"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	deb, archive := filepath.Join(dist, "overspan_1.2.3_amd64.deb"), filepath.Join(dist, "overspan_1.2.3_linux_amd64.tar.gz")
	t.Run("checksums", func(t *testing.T) { checkSums(t, dist, deb, archive) })
	t.Run("package", func(t *testing.T) { checkPackage(t, deb) })
	t.Run("archive", func(t *testing.T) {
		tree := t.TempDir()
		must(t, "tar", "-C", tree, "--strip-components", "1", "-xf", archive)
		for _, name := range []string{
			"agent", "ctl", "ctl.bash", "agent.yaml", "LICENSE", "systemd/overspan-agent.service",
			"network/01-overspan.network", "share/etcd/certs.sh", "doc/docs/install.md",
		} {
			if _, err := os.Stat(filepath.Join(tree, name)); err != nil {
				t.Error(err)
			}
		}
		if said := must(t, filepath.Join(tree, "agent"), "--version"); !strings.HasPrefix(said, "overspan agent 1.2.3, with etcd ") {
			t.Errorf("its agent calls itself %q", said)
		}
	})
}

// checkSums compares the files with what sha256sum(1) would read.
func checkSums(t *testing.T, dist string, files ...string) {
	var want strings.Builder
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		want.WriteString(hex.EncodeToString(sum[:]) + "  " + filepath.Base(file) + "\n")
	}
	got, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
	if diff := cmp.Diff(want.String(), string(got)); err != nil || diff != "" {
		t.Errorf("SHA256SUMS: %v (-want +got)\n%s", err, diff)
	}
}

// checkPackage looks at files, settings, scripts and pages.
func checkPackage(t *testing.T, deb string) {
	var got []string
	for line := range strings.Lines(must(t, "dpkg-deb", "--contents", deb)) {
		f := strings.Fields(line)
		mode, owner, path := f[0], f[1], strings.TrimPrefix(f[5], ".")
		if owner != "root/root" {
			t.Errorf("%s belongs to %s", path, owner)
		}
		if strings.HasSuffix(path, "/") || strings.HasPrefix(path, "/usr/share/overspan/") || strings.HasPrefix(path, "/usr/share/doc/") {
			continue
		}
		got = append(got, mode+" "+path)
	}
	slices.Sort(got)
	if diff := cmp.Diff(packaged, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for field, want := range map[string]string{
		"Package": "overspan", "Version": "1.2.3", "Architecture": "amd64", "Depends": "init-system-helpers (>= 1.52), iptables",
	} {
		if got := strings.TrimSpace(must(t, "dpkg-deb", "--field", deb, field)); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}

	tree := t.TempDir()
	must(t, "dpkg-deb", "--raw-extract", deb, tree)
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		want, err := os.ReadFile("debian/" + script)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(tree, "DEBIAN", script)
		got, err := os.ReadFile(path)
		if diff := cmp.Diff(string(want), string(got)); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got)\n%s", script, err, diff)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", script, info, err)
		}
	}
	conffiles, err := os.ReadFile(filepath.Join(tree, "DEBIAN/conffiles"))
	if got := strings.Fields(string(conffiles)); err != nil || !slices.Equal(got, []string{"/etc/default/overspan", "/etc/overspan/agent.yaml"}) {
		t.Errorf("conffiles: %v, %v", got, err)
	}
	for _, script := range []string{"etcd/certs.sh", "etcd/overspan-etcd-backup.sh", "docker/follow.sh"} {
		if info, err := os.Stat(filepath.Join(tree, "usr/share/overspan", script)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", script, info, err)
		}
	}
	checkLinks(t, filepath.Join(tree, "usr/share/doc/overspan"))
}

// checkLinks: a page of the package leads to pages of the package, or to the
// repository, which has them all.
func checkLinks(t *testing.T, doc string) {
	const repository = "https://github.com/overspan/overspan/blob/main/"
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	pages := 0
	err := filepath.WalkDir(doc, func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		pages++
		text, err := os.ReadFile(path)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			to := filepath.Join(filepath.Dir(path), m[1])
			if at, away := strings.CutPrefix(m[1], repository); away {
				to = filepath.Join("..", at)
			} else if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: a link leads to %s: %v", path, m[1], err)
			}
		}
		return err
	})
	if err != nil || pages < 20 {
		t.Errorf("%d pages, %v", pages, err)
	}
}

// must runs a command that must succeed, and returns what it prints.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := program(t, name, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return out
}
