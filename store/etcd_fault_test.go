package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/overspan/overspan"
)

// What users read must not be what libraries say to each other.
func TestPlainWords(t *testing.T) {
	for raw, want := range map[string]string{
		`connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.1:2379: connect: connection refused"`:                "dial tcp 10.0.0.1:2379: connect: connection refused",
		`connection error: desc = "transport: authentication handshake failed: tls: bad certificate"`:                                   "authentication handshake failed: tls: bad certificate",
		`connection error: desc = "error reading server preface: read tcp 10.0.0.2:1->10.0.0.1:2379: use of closed network connection"`: reasonSilent,
		"error reading server preface: EOF":               reasonSilent,
		"error reading from server: connection timed out": "error reading from server: connection timed out",
	} {
		if got := plain(status.Error(codes.Unavailable, raw)); got != want {
			t.Errorf("%s\nin plain words: %s\nwant: %s", raw, got, want)
		}
	}
}

func TestOutageIsOneSentence(t *testing.T) {
	at := []string{"http://a:2379", "http://b:2379"}
	for reason, want := range map[string]string{
		"dial tcp: connection refused": "etcd unreachable at http://a:2379,http://b:2379: dial tcp: connection refused: check that it runs and that this host reaches it",
		reasonNoLeader:                 "etcd unreachable at http://a:2379,http://b:2379: it has no leader: more than half of its members must run and reach each other",
		reasonNoSpace:                  "etcd at http://a:2379,http://b:2379 takes no writes: it is out of space: compact and defragment it, then disarm its alarm",
	} {
		err := error(unreachable(at, reason, context.DeadlineExceeded))
		if err.Error() != want {
			t.Errorf("got:  %v\nwant: %s", err, want)
		}
		if !errors.Is(err, overspan.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v: lost its class or its cause", err)
		}
	}
}

func TestEtcdOutOfSpace(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	cfg := EmbeddedConfig{Dir: filepath.Join(dir, "data"), Name: "test", ClientURLs: []string{"unix://" + filepath.Join(dir, "etcd.sock")}}
	conf, err := cfg.embed()
	if err != nil {
		t.Fatal(err)
	}
	conf.QuotaBackendBytes = 1 << 20
	s, err := cfg.start(testContext(t), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	kv := mustDial(t, DialConfig{Endpoints: s.Endpoints()})
	for i := 0; err == nil; i++ {
		_, err = kv.Txn(testContext(t), Txn{Then: []Op{Put(fmt.Sprint("/a", i), make([]byte, 128<<10))}})
	}
	wantError(t, err, overspan.ErrUnavailable, "takes no writes: "+reasonNoSpace)
	if _, err := kv.Grant(testContext(t), time.Minute); err == nil {
		t.Error("a lease was granted")
	}
	if _, err := kv.List(testContext(t), Prefix("/a"), 0); err != nil {
		t.Errorf("read a full etcd: %v", err)
	}
	m := kv.Members(testContext(t))[0]
	if m.Version == "" || m.Err == nil || m.Err.Error() != reasonNoSpace {
		t.Errorf("member %+v, want one that answers and says that it is full", m)
	}
}

func TestReadsAreTriedAgainOnlyWhereThatMayHelp(t *testing.T) {
	for err, want := range map[error]bool{
		rpctypes.ErrLeaderChanged: true,
		rpctypes.ErrNoLeader:      true,
		rpctypes.ErrNoSpace:       false,
		rpctypes.ErrCompacted:     false,
		context.DeadlineExceeded:  false,
		status.Error(codes.Unavailable, "error reading from server: EOF"): true,
		status.Error(codes.PermissionDenied, "no"):                        false,
	} {
		if got := passing(err); got != want {
			t.Errorf("%v: tried again: %v, want %v", err, got, want)
		}
	}
	read := Txn{Then: []Op{Get(Key("a")), Nest(Txn{Else: []Op{Get(Key("b"))}})}}
	write := Txn{Else: []Op{Nest(Txn{Then: []Op{Delete(Key("b"))}})}}
	if read.writes() || !write.writes() {
		t.Errorf("a transaction that reads writes: %v; one that deletes: %v", read.writes(), write.writes())
	}
}
