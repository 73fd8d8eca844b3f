package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api"
	"github.com/overspan/overspan/agent/api/apitest"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// TestTCPWithMutualTLS: with a certificate of the agent's CA ctl is served,
// without one it says what is missing.
func TestTCPWithMutualTLS(t *testing.T) {
	ca, stranger := apitest.NewAuthority(t), apitest.NewAuthority(t)
	files, foreign := apitest.TLSFiles(t), apitest.TLSFiles(t)
	ca.Write(t, files, 1)
	stranger.Write(t, foreign, 2)
	cfg := api.Config{Listen: []string{"tcp://127.0.0.1:0"}, TLS: files}
	listeners, err := api.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.New(apitest.New(), cfg, slog.New(slog.DiscardHandler)).Serve(ctx, listeners) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	host := "tcp://" + listeners[0].Addr().String()
	for _, tt := range []struct {
		name  string
		flags []string
		code  int
		says  string
	}{
		{"good", []string{"--tls-ca", files.CA, "--tls-cert", files.Cert, "--tls-key", files.Key}, 0, ""},
		{"foreign certificate", []string{"--tls-ca", files.CA, "--tls-cert", foreign.Cert, "--tls-key", foreign.Key}, 1, "see --tls-ca, --tls-cert and --tls-key"},
		{"foreign CA", []string{"--tls-ca", foreign.CA, "--tls-cert", files.Cert, "--tls-key", files.Key}, 1, "certificate signed by unknown authority"},
		{"no TLS", nil, 1, "see --tls-ca, --tls-cert and --tls-key"},
		{"half of it", []string{"--tls-ca", files.CA}, 2, "needs all of --tls-ca, --tls-cert and --tls-key"},
		{"no such file", []string{"--tls-ca", files.CA + "x", "--tls-cert", files.Cert, "--tls-key", files.Key}, 1, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"--host", host, "node", "ls"}, tt.flags...), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("exit code %d, stderr %q; want %d, %q", code, stderr.String(), tt.code, tt.says)
			}
			if got := strings.Contains(stdout.String(), "h1"); got != (tt.code == 0) {
				t.Errorf("stdout %q", stdout.String())
			}
		})
	}
}

// dyingNodes is an agent that is killed while it answers.
type dyingNodes struct {
	overspanv1.UnimplementedNodeServiceServer
	kill func()
}

func (d dyingNodes) ListNodes(ctx context.Context, _ *overspanv1.ListNodesRequest) (*overspanv1.ListNodesResponse, error) {
	go d.kill()
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestAgentThatEndsDuringACall: what is shown is not what gRPC read from the socket,
// but that nobody knows whether the call did something.
func TestAgentThatEndsDuringACall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	overspanv1.RegisterNodeServiceServer(server, dyingNodes{kill: server.Stop})
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"--host", "unix://" + path, "node", "ls"}, &stdout, &stderr)
	if want := "ended during the call"; code != 1 || !strings.Contains(stderr.String(), want) {
		t.Errorf("exit code %d, stderr %q; want 1, %q", code, stderr.String(), want)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAgentThatEndsBeforeACall: one that accepted the connection and ended has
// nothing to do with certificates.
func TestAgentThatEndsBeforeACall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"--host", "unix://" + path, "node", "ls"}, &stdout, &stderr)
	if code != 1 || !strings.Contains(stderr.String(), "is it running?") || strings.Contains(stderr.String(), "certificate") {
		t.Errorf("exit code %d, stderr %q; want 1, and the question whether it runs", code, stderr.String())
	}
}

// TestLongAnswerIsTaken: a cluster may be larger than what gRPC takes by itself, 4 MiB.
func TestLongAnswerIsTaken(t *testing.T) {
	const nodes = 80_000
	d := apitest.New()
	d.Change(func(s *overspan.Snapshot) {
		for i := range nodes {
			id := overspan.NodeID(fmt.Sprintf("%064x", i))
			s.Nodes[id] = &overspan.Node{ID: id, Name: fmt.Sprintf("far%d", i), VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, CreateRevision: 1}
		}
	})
	cfg := api.Config{Listen: []string{"unix://" + filepath.Join(t.TempDir(), "agent.sock")}}
	listeners, err := api.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.New(d, cfg, slog.New(slog.DiscardHandler)).Serve(ctx, listeners) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"--host", cfg.Listen[0], "node", "ls", "-q", "--filter", "name=far"}, &stdout, &stderr)
	if got := strings.Count(stdout.String(), "\n"); code != 0 || got != nodes {
		t.Errorf("exit code %d, %d lines, stderr %q; want 0 and %d lines", code, got, stderr.String(), nodes)
	}
}
