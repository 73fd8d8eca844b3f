package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// socketMode lets root and the socket's group in.
const socketMode = 0o660

// Listen opens every socket of the configuration, or none.
func Listen(cfg Config) ([]net.Listener, error) {
	var out []net.Listener
	for _, address := range cfg.Listen {
		l, err := listen(address, cfg)
		if err != nil {
			for _, open := range out {
				open.Close()
			}
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func listen(address string, cfg Config) (net.Listener, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "unix":
		return listenUnix(rest, cfg.Group)
	case "tcp":
		return listenTCP(rest, cfg.TLS)
	}
	return nil, overspan.Errorf(overspan.ErrInvalid, "unknown address: want unix:///path or tcp://host:port")
}

// listenUnix opens a unix socket. A socket file that nobody listens on any
// more is replaced.
func listenUnix(path, group string) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, overspan.Errorf(overspan.ErrInvalid, "the path of a unix socket must be absolute")
	}
	gid, err := lookupGroup(group)
	if err != nil {
		return nil, err
	}
	if err := removeStaleSocket(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	// The mode that a socket has before bind(2) is the one that its file
	// begins with, less the umask: there is no moment at which more may connect.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if controlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), socketMode) }); controlErr != nil {
			return controlErr
		}
		return err
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chown(path, -1, gid), os.Chmod(path, socketMode)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// lookupGroup returns the number of a group, -1 for none.
func lookupGroup(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, overspan.Errorf(overspan.ErrInvalid, "socket group: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return overspan.Errorf(overspan.ErrExists, "%s is there already and is not a socket; remove it, or choose another path", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return overspan.Errorf(overspan.ErrInUse, "another agent listens there; stop it, or give this one a run directory of its own")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// listenTCP opens a TCP socket with mutual TLS. Without certificates only a
// loopback address is taken: whoever may call the API owns the network.
func listenTCP(address string, files TLSFiles) (net.Listener, error) {
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, overspan.Errorf(overspan.ErrInvalid, "%w", err)
	}
	if !files.set() {
		if !resolved.IP.IsLoopback() {
			return nil, overspan.Errorf(overspan.ErrDenied, "refused without mutual TLS on an address other than loopback: give --tls-ca, --tls-cert and --tls-key")
		}
		return net.ListenTCP("tcp", resolved)
	}
	config, err := files.server()
	if err != nil {
		return nil, err
	}
	l, err := net.ListenTCP("tcp", resolved)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, config), nil
}
