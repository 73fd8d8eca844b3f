package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
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
		"/etc/resolv.conf": resolvFile(resolv),
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
	dir, err := os.MkdirTemp("", "overspan-")
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

// hostsFile names the sandbox's own addresses.
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
	return b.Bytes()
}

// resolvFile is the host's without the servers on its loopback: within the
// sandbox there is nobody at that address.
func resolvFile(host []byte) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(host)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "nameserver" {
			if a, err := netip.ParseAddr(fields[1]); err == nil && a.IsLoopback() {
				continue
			}
		}
		b.WriteString(line)
	}
	return b.Bytes()
}
