package api_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api"
	"github.com/overspan/overspan/agent/api/apitest"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// shows makes a client of the authority's servers that shows a certificate of
// signer's; nil shows none.
func shows(t *testing.T, trusted apitest.Authority, signer *apitest.Authority, until time.Time) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(trusted.Cert)
	config := &tls.Config{RootCAs: pool}
	if signer != nil {
		cert, key := signer.Issue(t, 7, until)
		config.Certificates = []tls.Certificate{must[tls.Certificate](t)(tls.X509KeyPair(cert, key))}
	}
	return config
}

// call asks an agent for its version over a connection of its own.
func call(t *testing.T, addr net.Addr, config *tls.Config) error {
	t.Helper()
	var creds credentials.TransportCredentials
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	_, err := overspanv1.NewSystemServiceClient(dial(t, addr, creds)).Version(t.Context(), &overspanv1.VersionRequest{})
	return err
}

func TestTCPTakesOnlyKnownClients(t *testing.T) {
	ca, stranger := apitest.NewAuthority(t), apitest.NewAuthority(t)
	files := apitest.TLSFiles(t)
	ca.Write(t, files, 1)
	addr := serve(t, apitest.New(), api.Config{Listen: []string{"tcp://127.0.0.1:0"}, TLS: files})[0]
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	for _, tt := range []struct {
		name   string
		config *tls.Config
		served bool
	}{
		{"good", shows(t, ca, &ca, later), true},
		{"no certificate", shows(t, ca, nil, later), false},
		{"foreign certificate", shows(t, ca, &stranger, later), false},
		{"expired certificate", shows(t, ca, &ca, past), false},
		{"no TLS", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := call(t, addr, tt.config); (err == nil) != tt.served {
				t.Errorf("served %v, want %v (%v)", err == nil, tt.served, err)
			}
		})
	}
	if err := call(t, addr, shows(t, ca, &ca, later)); err != nil {
		t.Errorf("after the others: %v", err)
	}
}

// serial returns which certificate a server shows.
func serial(t *testing.T, addr net.Addr, config *tls.Config) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", addr.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// TestCertificatesReplacedOnDisk are picked up by the next handshake, CA and
// all; while they are only half replaced the old ones serve.
func TestCertificatesReplacedOnDisk(t *testing.T) {
	before, after := apitest.NewAuthority(t), apitest.NewAuthority(t)
	files := apitest.TLSFiles(t)
	before.Write(t, files, 1)
	addr := serve(t, apitest.New(), api.Config{Listen: []string{"tcp://127.0.0.1:0"}, TLS: files})[0]
	later := time.Now().Add(time.Hour)
	oldClient, newClient := shows(t, before, &before, later), shows(t, after, &after, later)
	if got := serial(t, addr, oldClient); got != 1 {
		t.Fatalf("certificate %d, want 1", got)
	}
	if err := os.WriteFile(files.Cert, []byte("half a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(t, addr, oldClient); got != 1 {
		t.Errorf("half replaced: certificate %d, want 1", got)
	}
	after.Write(t, files, 2)
	if got := serial(t, addr, newClient); got != 2 {
		t.Errorf("replaced: certificate %d, want 2", got)
	}
	if err := call(t, addr, newClient); err != nil {
		t.Errorf("client of the new CA: %v", err)
	}
	trusting := oldClient.Clone()
	trusting.RootCAs = newClient.RootCAs
	if err := call(t, addr, trusting); err == nil {
		t.Error("a client of the old CA is still served")
	}
}

func TestTCPWithoutCertificates(t *testing.T) {
	for _, address := range []string{"tcp://0.0.0.0:0", "tcp://:0", "tcp://[::]:0"} {
		if _, err := api.Listen(api.Config{Listen: []string{address}}); !errors.Is(err, overspan.ErrDenied) {
			t.Errorf("%s: %v", address, err)
		}
	}
	addr := serve(t, apitest.New(), api.Config{Listen: []string{"tcp://127.0.0.1:0"}})[0]
	if err := call(t, addr, nil); err != nil {
		t.Errorf("loopback: %v", err)
	}
	files := apitest.TLSFiles(t)
	for _, incomplete := range []api.TLSFiles{files, {CA: files.CA}, {Cert: files.Cert, Key: files.Key}} {
		if _, err := api.Listen(api.Config{Listen: []string{"tcp://127.0.0.1:0"}, TLS: incomplete}); err == nil {
			t.Errorf("%+v: listening succeeded", incomplete)
		}
	}
}
