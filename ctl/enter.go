package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// enter moves the calling thread into a sandbox: into its network namespace,
// and into fresh mount and UTS namespaces with files and a hostname of its own.
// The thread must be locked, and must not be used for anything else afterwards.
func enter(sb sandboxItem, hostname string) error {
	if err := joinNetns(sb.Netns); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare mount and UTS namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set hostname %s: %w", hostname, err)
	}
	// What is mounted on the host later is seen within, but not the reverse.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	files := map[string][]byte{
		"/etc/hosts":       hostsFile(sb, hostname),
		"/etc/resolv.conf": resolvFile(resolv, sb),
	}
	if err := overlayFiles(files); err != nil {
		return err
	}
	// A sysfs shows the interfaces of the namespace that it was mounted in.
	// Where it cannot be mounted, as in some containers, all else still works.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return nil
}

func joinNetns(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("join network namespace %s: %w", path, err)
	}
	return nil
}

// overlayFiles puts files in place of others, for this mount namespace alone.
// One that is not there on the host cannot be replaced and is left out.
func overlayFiles(files map[string][]byte) error {
	// Not in TMPDIR: that may be the sandbox's, given for its command.
	dir, err := os.MkdirTemp("/tmp", "overspan-")
	if err != nil {
		return err
	}
	// A bind mount keeps its file when the name is gone.
	defer os.RemoveAll(dir)
	for target, content := range files {
		source := filepath.Join(dir, filepath.Base(target))
		if err := os.WriteFile(source, content, 0o644); err != nil {
			return err
		}
		err := unix.Mount(source, target, "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mount over %s: %w", target, err)
		}
	}
	return nil
}

// hostsFile names the sandbox's own addresses, and what its user wants named.
func hostsFile(sb sandboxItem, hostname string) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, e := range sb.Endpoints {
		names := hostname
		if e.Name != hostname {
			names += " " + e.Name
		}
		for _, a := range e.addresses() {
			fmt.Fprintf(&b, "%s\t%s\n", a, names)
		}
	}
	for _, h := range sb.ExtraHosts {
		fmt.Fprintf(&b, "%s\t%s\n", h.Address, h.Name)
	}
	return b.Bytes()
}

// resolvFile has the gateways of the sandbox's networks asked first of all, and
// the rest as on the host unless the user has said otherwise.
func resolvFile(host []byte, sb sandboxItem) []byte {
	want := overspan.Resolver{Servers: addrsOf(sb.DNS), Search: sb.DNSSearch, Options: sb.DNSOptions}
	return []byte(overspan.ParseResolver(string(host)).Within(addrsOf(sb.Nameservers), want).String())
}

// addrsOf reads addresses as the agent writes them.
func addrsOf(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}
