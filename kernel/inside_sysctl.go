package kernel

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netns"
)

// A Sysctl is a setting of an interface in a container.
type Sysctl struct {
	Path  string // below /proc/sys: "net/ipv4/conf/eth0/log_martians"
	Value string
}

// String returns the setting as sysctl(8) takes it, with slashes.
func (s Sysctl) String() string { return s.Path + "=" + s.Value }

// A SysctlError says why a container's interface cannot have a setting. It is of
// class overspan.ErrInvalid.
type SysctlError struct {
	Sysctl Sysctl
	Err    error // the reason, and what to try
}

func (e *SysctlError) Error() string { return fmt.Sprintf("sysctl %s: %v", e.Sysctl, e.Err) }

// Unwrap returns the reason.
func (e *SysctlError) Unwrap() error { return e.Err }

func refuseSysctl(s Sysctl, format string, args ...any) error {
	return &SysctlError{s, overspan.Errorf(overspan.ErrInvalid, format, args...)}
}

// writeInside writes settings in a container's namespace, and has a look at what
// the kernel has made of each: a number of jiffies is not always one of
// milliseconds, and what is never read back as it was written would be put right
// for ever.
func writeInside(ns netns.NsHandle, settings []Sysctl) error {
	if len(settings) == 0 {
		return nil
	}
	return do(ns, func() error {
		for _, s := range settings {
			file, err := sysctlFile(s.Path)
			if err != nil {
				return err
			}
			err = os.WriteFile(file, []byte(s.Value), 0)
			if errors.Is(err, os.ErrNotExist) {
				return refuseSysctl(s, "this kernel has none of that name: leave it out, or see in /proc/sys/%s what there is", path.Dir(s.Path))
			}
			if err != nil {
				return refuseSysctl(s, "the kernel does not take %s: %w: ask for another value", s.Value, err)
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if got := strings.TrimSpace(string(raw)); got != s.Value {
				return refuseSysctl(s, "the kernel makes %s of %s: ask for a value that it keeps", got, s.Value)
			}
		}
		return nil
	})
}

// readInsideSysctls reads settings in a container's namespace. One that does not
// exist is left out: its interface may bear another name by now.
func readInsideSysctls(ns netns.NsHandle, paths []string) ([]Sysctl, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	values, err := readSysctlsIn(ns, paths)
	var out []Sysctl
	for _, path := range paths {
		if value, there := values[path]; there {
			out = append(out, Sysctl{path, value})
		}
	}
	return out, err
}
