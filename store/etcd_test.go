package store

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overspan/overspan"
)

func mustDial(t *testing.T, cfg DialConfig) *Etcd {
	t.Helper()
	kv, err := Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeKV(t, kv) })
	return kv
}

// freeURL returns a URL on which nobody listens.
func freeURL(t *testing.T, scheme string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return scheme + "://" + l.Addr().String()
}

func wantError(t *testing.T, err, class error, texts ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("error %v, want one of class %q", err, class)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q, want it to say %q", err, text)
		}
	}
}

func TestDialRefusesWhatCanNeverWork(t *testing.T) {
	dir := tempDir(t)
	rubbish := filepath.Join(dir, "rubbish.pem")
	if err := os.WriteFile(rubbish, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := []string{"https://127.0.0.1:1"}
	tests := []struct {
		name string
		cfg  DialConfig
		text string
	}{
		{"no endpoint", DialConfig{}, "no etcd endpoint"},
		{"no CA", DialConfig{Endpoints: at, CA: dir + "/none"}, "none"},
		{"a CA that is none", DialConfig{Endpoints: at, CA: rubbish}, rubbish},
		{"a certificate without a key", DialConfig{Endpoints: at, Cert: rubbish}, "client certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Dial(tt.cfg)
			wantError(t, err, overspan.ErrInvalid, tt.text)
		})
	}
}

func TestEtcdSaysWhyItIsUnreachable(t *testing.T) {
	t.Parallel()
	url := freeURL(t, "http")
	kv := mustDial(t, DialConfig{Endpoints: []string{url}})
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(testContext(t), 500*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	_, err := kv.Txn(short(), Txn{Then: []Op{Put("a", nil)}})
	wantError(t, err, overspan.ErrUnavailable, "etcd unreachable at "+url, "connection refused")
	_, err = kv.List(short(), Key("a"), 0)
	wantError(t, err, overspan.ErrUnavailable, "etcd unreachable at "+url, "connection refused")
	if _, err := kv.Grant(short(), time.Minute); err == nil {
		t.Error("a lease of nobody")
	}
	members := kv.Members(short())
	if len(members) != 1 || members[0].Endpoint != url {
		t.Fatalf("members %+v, want the endpoint", members)
	}
	wantError(t, members[0].Err, overspan.ErrUnavailable, strings.TrimPrefix(url, "http://"), "connection refused")
}

func TestEtcdOverTLS(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	ours, foreign := newAuthority(t, dir, "ours"), newAuthority(t, dir, "foreign")
	cert, key := ours.issue(t, "server")
	s, err := StartEmbedded(testContext(t), EmbeddedConfig{
		Dir: filepath.Join(dir, "data"), Name: "test",
		ClientURLs: []string{freeURL(t, "https")},
		CA:         ours.file, Cert: cert, Key: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	good, goodKey := ours.issue(t, "client")
	bad, badKey := foreign.issue(t, "client")

	kv := mustDial(t, DialConfig{Endpoints: s.Endpoints(), CA: ours.file, Cert: good, Key: goodKey})
	mustTxn(t, kv, Txn{Then: []Op{Put("a", nil)}})
	if m := kv.Members(testContext(t)); m[0].Err != nil {
		t.Errorf("member: %v", m[0].Err)
	}

	refused := map[string]DialConfig{
		"certificate signed by unknown authority": {Endpoints: s.Endpoints(), CA: foreign.file, Cert: good, Key: goodKey},
		"etcd unreachable":                        {Endpoints: s.Endpoints(), CA: ours.file, Cert: bad, Key: badKey},
		"etcd unreachable at ":                    {Endpoints: s.Endpoints(), CA: ours.file},
	}
	for text, cfg := range refused {
		ctx, cancel := context.WithTimeout(testContext(t), 500*time.Millisecond)
		defer cancel()
		_, err := mustDial(t, cfg).List(ctx, Key("a"), 0)
		wantError(t, err, overspan.ErrUnavailable, text)
	}
}

// An authority signs certificates into files.
type authority struct {
	dir, name, file string
	cert            *x509.Certificate
	key             *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{dir: dir, name: name}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.file, _ = a.sign(t, "ca", a.cert)
	return a
}

func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	return a.sign(t, name, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
}

// sign writes a certificate and its key; the first one is the authority's own.
func (a *authority) sign(t *testing.T, name string, cert *x509.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.key == nil {
		a.key = key
	}
	raw, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(kind, ext string, raw []byte) string {
		file := filepath.Join(a.dir, a.name+"-"+name+ext)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("CERTIFICATE", ".crt", raw), write("PRIVATE KEY", ".key", rawKey)
}

func TestEtcdWithUsers(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	s := startServerForUsers(t, dir)
	root := s.KV()
	enableAuth(t, root)
	closeKV(t, root)

	dial := func(user, password string) *Etcd {
		return mustDial(t, DialConfig{Endpoints: s.Endpoints(), User: user, Password: password})
	}
	agent := dial("agent", "secret")
	mustTxn(t, agent, Txn{Then: []Op{Put("/ours/a", nil)}})
	_, err := agent.Txn(testContext(t), Txn{Then: []Op{Put("/theirs/a", nil)}})
	wantError(t, err, overspan.ErrDenied, "permission denied")
	_, err = dial("agent", "wrong").List(testContext(t), Key("/ours/a"), 0)
	wantError(t, err, overspan.ErrDenied, "authentication failed")
	select {
	case b := <-agent.Watch(testContext(t), Prefix("/theirs/"), 1):
		wantError(t, b.Err, overspan.ErrDenied)
	case <-testContext(t).Done():
		t.Error("a watch that may not be is silent")
	}

	// A client that starts while etcd is away works once it is back.
	s.Close()
	late := dial("agent", "secret")
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	_, err = late.List(ctx, Key("/ours/a"), 0)
	wantError(t, err, overspan.ErrUnavailable, "etcd unreachable at unix://")
	s = startServerForUsers(t, dir)
	t.Cleanup(s.Close)
	eventually(t, "etcd is back", func() bool {
		_, err = late.List(testContext(t), Key("/ours/a"), 0)
		return err == nil
	})
}

// startServerForUsers starts a server that spends no time on hashing passwords.
func startServerForUsers(t *testing.T, dir string) *Embedded {
	t.Helper()
	cfg := EmbeddedConfig{Dir: filepath.Join(dir, "data"), Name: "test", ClientURLs: []string{"unix://" + filepath.Join(dir, "etcd.sock")}}
	conf, err := cfg.embed()
	if err != nil {
		t.Fatal(err)
	}
	conf.BcryptCost = 4 // the least
	s, err := cfg.start(testContext(t), conf)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func enableAuth(t *testing.T, kv *Etcd) {
	t.Helper()
	ctx := testContext(t)
	c, err := kv.connect(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	steps := []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := c.RoleAdd(ctx, "root"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "agent", "secret"); return err },
		func() error { _, err := c.RoleAdd(ctx, "agent"); return err },
		func() error {
			all := clientv3.PermissionType(clientv3.PermReadWrite)
			_, err := c.RoleGrantPermission(ctx, "agent", "/ours/", "/ours0", all)
			return err
		},
		func() error { _, err := c.UserGrantRole(ctx, "agent", "agent"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

func TestKeepAliveEndsWithTheTimeOfItsLease(t *testing.T) {
	t.Parallel()
	s := startServer(t, tempDir(t))
	kv := mustDial(t, DialConfig{Endpoints: s.Endpoints()})
	id, err := kv.Grant(testContext(t), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := kv.KeepAlive(testContext(t), id)
	if err != nil {
		t.Fatal(err)
	}
	mustTxn(t, kv, Txn{Then: []Op{PutLeased("a", nil, id)}})
	s.Close()
	select {
	case <-lost:
	case <-testContext(t).Done():
		t.Error("nothing was heard of the lease for its whole time, and it is still said to be alive")
	}
}

func TestEtcdLogsThroughSlog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level:       slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return dropTime(a) },
	}))
	z := zapTo(log, slog.LevelError).With(zap.String("member", "m1"))
	z.Debug("a request")
	z.Info("info", zap.Int("n", 7))
	z.Warn("warning", zap.Error(errors.New("cause")))
	z.Error("error")
	zapTo(nil, slog.LevelError).Error("nothing")
	zapTo(log, slog.LevelDebug).Error("of a client")
	want := "level=DEBUG msg=info member=m1 n=7\n" +
		"level=WARN msg=warning member=m1 error=cause\n" +
		"level=ERROR msg=error member=m1\n" +
		"level=DEBUG msg=\"of a client\"\n"
	if got := out.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func dropTime(a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
