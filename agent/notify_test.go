package main

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// TestSystemdIsTold: a service manager's socket gets each state as a datagram,
// sd_notify(3); that READY=1 comes when the agent serves is what every node of the
// lab waits for.
func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	for _, state := range []string{systemd.SdNotifyReady, systemd.SdNotifyStopping} {
		notify(slog.New(slog.DiscardHandler), state)
		told := make([]byte, 64)
		n, err := manager.Read(told)
		if err != nil || string(told[:n]) != state {
			t.Errorf("told %q, %v, want %q", told[:n], err, state)
		}
	}
}
