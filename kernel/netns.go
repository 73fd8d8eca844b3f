package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// OwnNetns is the path of this host's own namespace: that of the calling thread,
// as the process's first one, /proc/self, may be on a visit elsewhere.
const OwnNetns = "/proc/thread-self/ns/net"

// bootID is the kernel's name of this boot, which does not change while we run.
var bootID = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
})

// Netns says which network namespace a path names. The error is of class
// ErrNotFound if there is nothing, ErrInvalid if it is something else.
func (h *Host) Netns(path string) (overspan.NetnsID, error) {
	ns, err := openNetns(path)
	if err != nil {
		return overspan.NetnsID{}, err
	}
	defer ns.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(ns), &st); err != nil {
		return overspan.NetnsID{}, fmt.Errorf("stat %s: %w", path, err)
	}
	id := overspan.NetnsID{Dev: st.Dev, Ino: st.Ino}
	if id.Boot, err = bootID(); err != nil {
		return overspan.NetnsID{}, fmt.Errorf("tell network namespace %s from those of other boots: %w", path, err)
	}
	if id.Cookie, err = netnsCookie(ns); err != nil {
		return overspan.NetnsID{}, fmt.Errorf("tell network namespace %s from those before it: %w", path, err)
	}
	return id, nil
}

// netnsCookie returns the number that the kernel gives to one namespace of a boot
// alone; 0 before Linux 5.14. A socket in the namespace tells it, of the kind that
// costs least to make and to close.
func netnsCookie(ns netns.NsHandle) (cookie uint64, err error) {
	err = do(ns, func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if errors.Is(err, unix.ENOPROTOOPT) {
			return nil
		}
		return err
	})
	return cookie, err
}

// Interfaces returns the sorted names of all interfaces in the namespace at
// path, lo included. Left-over ends of ours, which Retire is about to delete,
// do not count: AddLink takes their names.
func (h *Host) Interfaces(path string) ([]string, error) {
	c, err := dialAt(path)
	if err != nil {
		return nil, err
	}
	defer c.close()
	links, err := c.links(0)
	if err != nil {
		return nil, fmt.Errorf("list interfaces in %s: %w", path, err)
	}
	var names []string
	for _, d := range links {
		if !h.isLeftOver(d) {
			names = append(names, d.name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// openNetns opens a network namespace. Nothing but a namespace is ever opened:
// the path comes from a user and may name a FIFO or a device.
func openNetns(path string) (netns.NsHandle, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESRCH):
		return netns.None(), overspan.Errorf(overspan.ErrNotFound, "network namespace %s not found", path)
	case err != nil:
		return netns.None(), fmt.Errorf("stat network namespace %s: %w", path, err)
	case st.Type != unix.NSFS_MAGIC:
		return netns.None(), overspan.Errorf(overspan.ErrInvalid, "%s is not a network namespace", path)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return netns.None(), fmt.Errorf("open network namespace %s: %w", path, err)
	}
	kind, err := unix.IoctlRetInt(int(ns), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		ns.Close()
		return netns.None(), overspan.Errorf(overspan.ErrInvalid, "%s is not a network namespace", path)
	}
	return ns, nil
}

// do runs f inside a network namespace.
func do(ns netns.NsHandle, f func() error) error {
	return leave(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// leave runs f on a locked thread, since f may enter another network namespace,
// and returns the thread to its own one afterwards. If that fails, the thread
// stays locked and dies with its goroutine. Not every thread is thrown away like
// that: the process's first thread cannot end, and would keep a container's
// namespace alive and show it under /proc/self.
func leave(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open the thread's network namespace: %w", err)
			return
		}
		defer own.Close()
		err = f()
		if netns.Set(own) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// dialAt opens a netlink socket inside the namespace at path.
func dialAt(path string) (*conn, error) {
	ns, err := openNetns(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return dialIn(ns)
}

// dialIn opens a netlink socket inside a namespace.
func dialIn(ns netns.NsHandle) (*conn, error) {
	var c *conn
	err := do(ns, func() (err error) {
		c, err = dial(unix.NETLINK_ROUTE)
		return err
	})
	return c, err
}

// readPins lists the namespaces that are pinned in the host's directory.
func (h *Host) readPins() (map[string]struct{}, error) {
	pins := map[string]struct{}{}
	if h.config.NetnsDir == "" {
		return pins, nil
	}
	entries, err := os.ReadDir(h.config.NetnsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return pins, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinned namespaces: %w", err)
	}
	for _, e := range entries {
		// A file without a mount is what a reboot leaves behind: not a pin.
		path := filepath.Join(h.config.NetnsDir, e.Name())
		if ns, err := openNetns(path); err == nil {
			ns.Close()
			pins[path] = struct{}{}
		}
	}
	return pins, nil
}

// addPin makes a network namespace and keeps it alive by a bind mount at path,
// as ip-netns(8) does. Its loopback is up.
func (h *Host) addPin(path string) error {
	if ns, err := openNetns(path); err == nil {
		return ns.Close()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("add netns %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("add netns %s: %w", path, err)
	}
	file.Close()
	if err := mountNetns(path); err != nil {
		os.Remove(path)
		return fmt.Errorf("add netns %s: %w", path, err)
	}
	return nil
}

func mountNetns(path string) error {
	ns, err := newNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := dialIn(ns)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.exec(setUp(loopbackIndex)); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns), path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	return nil
}

// newNetns makes a network namespace.
func newNetns() (netns.NsHandle, error) {
	ns := netns.None()
	err := leave(func() (err error) {
		if ns, err = netns.New(); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		return nil
	})
	return ns, err
}

// delPin lets a pinned namespace go. It lives on while something is in it.
func (h *Host) delPin(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("del netns %s: unmount: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("del netns %s: %w", path, err)
	}
	return nil
}
