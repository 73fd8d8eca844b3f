package api_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api"
	"github.com/overspan/overspan/agent/api/apitest"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func listenUnix(path, group string) ([]net.Listener, error) {
	return api.Listen(api.Config{Listen: []string{"unix://" + path}, Group: group})
}

func TestUnixSocketIsForRootAndItsGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "agent.sock")
	listeners, err := listenUnix(path, "daemon")
	if err != nil {
		t.Fatal(err)
	}
	defer listeners[0].Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o660 {
		t.Errorf("mode %o, want 660", mode)
	}
	if _, err := listenUnix(path+"2", "no-such-group"); !errors.Is(err, overspan.ErrInvalid) {
		t.Errorf("unknown group: %v", err)
	}
}

// TestUnixSocketLeftBehind: only what nobody listens on any more is replaced.
func TestUnixSocketLeftBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	listeners, err := listenUnix(path, "")
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	defer listeners[0].Close()
	if _, err := listenUnix(path, ""); !errors.Is(err, overspan.ErrInUse) {
		t.Errorf("living socket: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(file, ""); !errors.Is(err, overspan.ErrExists) {
		t.Errorf("a file: %v", err)
	}
}

// TestListenAllOrNone: one address that cannot be had closes the others.
func TestListenAllOrNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	for _, bad := range []string{"http://127.0.0.1:0", "unix://relative.sock", "tcp://nowhere", "", "tcp://0.0.0.0:0"} {
		if _, err := api.Listen(api.Config{Listen: []string{"unix://" + path, bad}}); err == nil {
			t.Errorf("listening on %q succeeded", bad)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: the other socket is still there: %v", bad, err)
		}
	}
}

// TestStopIsBounded: a stream that its reader never leaves does not hold the
// agent, and the socket is gone afterwards.
func TestStopIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	listeners, err := listenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := api.New(apitest.New(), api.Config{}, slog.New(slog.DiscardHandler))
	go func() { done <- server.Serve(ctx, listeners) }()
	system := overspanv1.NewSystemServiceClient(dial(t, listeners[0].Addr(), nil))
	stream, err := system.Events(t.Context(), &overspanv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(callBound):
		t.Fatal("the server does not stop")
	}
	if _, err := stream.Recv(); !errors.Is(overspanv1.FromStatus(err), overspan.ErrUnavailable) {
		t.Errorf("the stream ended with %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestStopBeforeTheStart is no failure, and leaves no socket.
func TestStopBeforeTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	listeners, err := listenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := api.New(apitest.New(), api.Config{}, slog.New(slog.DiscardHandler)).Serve(ctx, listeners); err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
