package deploy

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCertificatesOfEtcd: members and nodes know each other by what certs.sh
// makes, and strangers do not pass. Each node has one of its own, which can be
// renewed alone.
func TestCertificatesOfEtcd(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second time it keeps what is there
		if out, err := program(t, "etcd/certs.sh", dir, "etcd1=192.0.2.1", "etcd2=192.0.2.2", "h1", "h2"); err != nil {
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
		{"a node", &tls.Config{Certificates: pair("h1"), RootCAs: ca, ServerName: "192.0.2.1"}, true},
		{"another member", &tls.Config{Certificates: pair("etcd2"), RootCAs: ca, ServerName: "etcd1"}, true},
		{"etcdctl on the host", &tls.Config{Certificates: pair("h1"), RootCAs: ca, ServerName: "127.0.0.1"}, true},
		{"nobody", &tls.Config{RootCAs: ca, ServerName: "192.0.2.1"}, false},
		{"at another's address", &tls.Config{Certificates: pair("h1"), RootCAs: ca, ServerName: "192.0.2.2"}, false},
	} {
		if err := shake(server, test.client); (err == nil) != test.ok {
			t.Errorf("%s: %v, want ok %t", test.name, err, test.ok)
		}
	}
	var serials []string
	for _, node := range []string{"h1", "h2"} {
		leaf := pair(node)[0].Leaf
		if leaf.Subject.CommonName != node {
			t.Errorf("the certificate of %s is of %q: etcd knows a node by this name", node, leaf.Subject.CommonName)
		}
		serials = append(serials, leaf.SerialNumber.String())
	}
	for _, gone := range []string{"h1.crt", "h1.key"} {
		if err := os.Remove(filepath.Join(dir, gone)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := program(t, "etcd/certs.sh", dir, "h1", "h2"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if one, two := pair("h1")[0].Leaf.SerialNumber.String(), pair("h2")[0].Leaf.SerialNumber.String(); one == serials[0] || two != serials[1] {
		t.Errorf("renewed h1: the serial numbers of h1 and h2 were %v and are %s, %s", serials, one, two)
	}
	for _, key := range []string{"ca.key", "h1.key", "etcd1.key"} {
		info, err := os.Stat(filepath.Join(dir, key))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v: want it to be root's alone", key, info.Mode(), err)
		}
	}
}

// TestHalfACA: whichever half is missing, nothing is made that nobody would trust.
func TestHalfACA(t *testing.T) {
	for _, missing := range []string{"ca.key", "ca.crt"} {
		dir := t.TempDir()
		if out, err := program(t, "etcd/certs.sh", dir, "h1"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := os.Remove(filepath.Join(dir, missing)); err != nil {
			t.Fatal(err)
		}
		out, err := program(t, "etcd/certs.sh", dir, "h2")
		if err == nil || !strings.Contains(out, "without "+missing) {
			t.Errorf("without %s: %v\n%s", missing, err, out)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(left) != 4 { // half a CA, its serial number, and what h1 has
			t.Errorf("without %s it leaves %v, %v", missing, left, err)
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
