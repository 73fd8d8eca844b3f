package deploy

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestCertificatesOfEtcd: members and agents know each other by what certs.sh
// makes, and strangers do not pass.
func TestCertificatesOfEtcd(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second time it keeps what is there
		if out, err := program(t, "etcd/certs.sh", dir, "etcd1=192.0.2.1", "etcd2=192.0.2.2"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	ca := x509.NewCertPool()
	ca.AppendCertsFromPEM(pem)
	pair := func(name string) []tls.Certificate {
		t.Helper()
		c, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{c}
	}
	server := &tls.Config{Certificates: pair("etcd1"), ClientCAs: ca, ClientAuth: tls.RequireAndVerifyClientCert}
	for _, test := range []struct {
		name   string
		client *tls.Config
		ok     bool
	}{
		{"an agent", &tls.Config{Certificates: pair("agent"), RootCAs: ca, ServerName: "192.0.2.1"}, true},
		{"another member", &tls.Config{Certificates: pair("etcd2"), RootCAs: ca, ServerName: "etcd1"}, true},
		{"etcdctl on the host", &tls.Config{Certificates: pair("agent"), RootCAs: ca, ServerName: "127.0.0.1"}, true},
		{"nobody", &tls.Config{RootCAs: ca, ServerName: "192.0.2.1"}, false},
		{"at another's address", &tls.Config{Certificates: pair("agent"), RootCAs: ca, ServerName: "192.0.2.2"}, false},
	} {
		if err := shake(server, test.client); (err == nil) != test.ok {
			t.Errorf("%s: %v, want ok %t", test.name, err, test.ok)
		}
	}
	for _, key := range []string{"ca.key", "agent.key", "etcd1.key"} {
		info, err := os.Stat(filepath.Join(dir, key))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v: want it to be root's alone", key, info.Mode(), err)
		}
	}
}

// shake has the two ends shake hands.
func shake(server, client *tls.Config) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		err := tls.Server(a, server).Handshake()
		a.Close() // else the other end waits
		done <- err
	}()
	err := tls.Client(b, client).Handshake()
	b.Close()
	if serverErr := <-done; err == nil {
		err = serverErr
	}
	return err
}
