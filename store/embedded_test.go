package store

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// testTimeout bounds what must happen soon; nothing is measured by it.
const testTimeout = 20 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// tempDir is t.TempDir with a short path, as unix sockets want it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startServer starts a server on a socket in dir, to be closed by the test.
func startServer(t *testing.T, dir string) *Embedded {
	t.Helper()
	s, err := StartEmbedded(testContext(t), EmbeddedConfig{
		Dir:        filepath.Join(dir, "data"),
		Name:       "test",
		ClientURLs: []string{"unix://" + filepath.Join(dir, "etcd.sock")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newServer starts a server that ends with the test.
func newServer(t *testing.T) *Embedded {
	t.Helper()
	s := startServer(t, tempDir(t))
	t.Cleanup(s.Close)
	return s
}

// dialServer connects to a server from outside; closed with the test.
func dialServer(t *testing.T, s *Embedded) *Etcd {
	t.Helper()
	kv, err := Dial(DialConfig{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeKV(t, kv) })
	return kv
}

func closeKV(t *testing.T, kv KV) {
	t.Helper()
	if err := kv.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestEmbeddedKeepsDataAndClusterIDOverRestart(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	ctx := testContext(t)

	s := startServer(t, dir)
	kv := s.KV()
	res := mustTxn(t, kv, Txn{Then: []Op{Put("a", []byte("1"))}})
	closeKV(t, kv)
	s.Close()

	s = startServer(t, dir)
	defer s.Close()
	kv = s.KV()
	defer closeKV(t, kv)
	l, err := kv.List(ctx, Key("a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.KVs) != 1 || l.KVs[0].ModRevision != res.Revision || l.ClusterID != res.ClusterID {
		t.Errorf("after restart: got %+v, want key a of revision %d in cluster %x", l, res.Revision, res.ClusterID)
	}
}

func TestEmbeddedFreshDirectoryIsAnotherCluster(t *testing.T) {
	t.Parallel()
	var ids [2]uint64
	for i := range ids {
		s := startServer(t, tempDir(t))
		kv := s.KV()
		ids[i] = mustTxn(t, kv, Txn{Then: []Op{Put("a", nil)}}).ClusterID
		closeKV(t, kv)
		s.Close()
	}
	if ids[0] == ids[1] {
		t.Errorf("two fresh directories have one cluster id %x", ids[0])
	}
}

func TestEmbeddedTellsWhatItAdvertises(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	advertised := []string{"http://192.0.2.1:2379"}
	s, err := StartEmbedded(testContext(t), EmbeddedConfig{
		Dir: filepath.Join(dir, "data"), Name: "test", Log: slog.New(slog.DiscardHandler),
		ClientURLs: []string{"unix://" + dir + "/etcd.sock"}, AdvertiseClientURLs: advertised,
		PeerURL: freeURL(t, "http"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.Endpoints(); !slices.Equal(got, advertised) {
		t.Errorf("endpoints %v, want %v", got, advertised)
	}
	kv := s.KV()
	defer closeKV(t, kv)
	mustTxn(t, kv, Txn{Then: []Op{Put("a", nil)}})
	if m := kv.Members(testContext(t)); m[0].Endpoint != advertised[0] || m[0].Err != nil {
		t.Errorf("members %+v, want one healthy at %s", m, advertised[0])
	}
}

func TestEmbeddedRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	running := tempDir(t)
	s := startServer(t, running)
	defer s.Close()

	tests := []struct {
		name  string
		cfg   EmbeddedConfig
		class error
		text  string
	}{
		{
			name:  "a port that is taken",
			cfg:   EmbeddedConfig{Dir: tempDir(t), Name: "b", ClientURLs: []string{"http://" + taken.Addr().String()}},
			class: overspan.ErrInUse, text: taken.Addr().String(),
		},
		{
			name: "a peer port that is taken",
			cfg: EmbeddedConfig{
				Dir: tempDir(t), Name: "b", ClientURLs: []string{"unix://" + tempDir(t) + "/b.sock"},
				PeerURL: "http://" + taken.Addr().String(),
			},
			class: overspan.ErrInUse, text: taken.Addr().String(),
		},
		{
			name:  "a data directory of a running server",
			cfg:   EmbeddedConfig{Dir: filepath.Join(running, "data"), Name: "b", ClientURLs: []string{"unix://" + running + "/b.sock"}},
			class: overspan.ErrInUse, text: running,
		},
		{
			name:  "a URL that is none",
			cfg:   EmbeddedConfig{Dir: tempDir(t), Name: "b", ClientURLs: []string{"10.0.0.1:2379"}},
			class: overspan.ErrInvalid, text: "10.0.0.1:2379",
		},
		{
			name:  "no URL",
			cfg:   EmbeddedConfig{Dir: tempDir(t), Name: "b"},
			class: overspan.ErrInvalid,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := StartEmbedded(testContext(t), tt.cfg)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got error %v, want one of class %q that names %q", err, tt.class, tt.text)
			}
		})
	}
}
