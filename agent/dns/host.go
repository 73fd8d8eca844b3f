package dns

import (
	"os"
	"sync"
	"time"

	"github.com/overspan/overspan"
)

// hostFile is the host's resolv.conf(5), read again when it has changed.
type hostFile struct {
	path string

	mu       sync.Mutex // guards all below
	modified time.Time
	size     int64
	resolver overspan.Resolver
}

// read returns what the file says now. A host without it asks nobody.
func (f *hostFile) read() (overspan.Resolver, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if os.IsNotExist(err) {
		return overspan.Resolver{}, nil
	}
	if err != nil {
		return overspan.Resolver{}, err
	}
	if info.ModTime().Equal(f.modified) && info.Size() == f.size {
		return f.resolver, nil
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return overspan.Resolver{}, err
	}
	f.resolver = overspan.ParseResolver(string(text))
	f.modified, f.size = info.ModTime(), info.Size()
	return f.resolver, nil
}
