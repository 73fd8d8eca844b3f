package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api"
	"github.com/overspan/overspan/agent/api/apitest"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return authority{must[*x509.Certificate](t)(x509.ParseCertificate(der)), key}
}

// issue returns certificate and key for the addresses 127.0.0.1 and 127.0.0.2,
// in PEM.
func (a authority) issue(t *testing.T, serial int64, until time.Time) (cert, key []byte) {
	t.Helper()
	private := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "agent"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2)},
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key))
	raw := must[[]byte](t)(x509.MarshalECPrivateKey(private))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// write puts the authority's and a fresh certificate into files.
func (a authority) write(t *testing.T, files api.TLSFiles, serial int64) {
	t.Helper()
	cert, key := a.issue(t, serial, time.Now().Add(time.Hour))
	for path, content := range map[string][]byte{files.CA: a.pem(), files.Cert: cert, files.Key: key} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func tlsFiles(t *testing.T) api.TLSFiles {
	dir := t.TempDir()
	return api.TLSFiles{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
}

// shows makes a client of the authority's servers that shows a certificate of
// signer's; nil shows none.
func shows(t *testing.T, trusted authority, signer *authority, until time.Time) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(trusted.cert)
	config := &tls.Config{RootCAs: pool}
	if signer != nil {
		cert, key := signer.issue(t, 7, until)
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
	ca, stranger := newAuthority(t), newAuthority(t)
	files := tlsFiles(t)
	ca.write(t, files, 1)
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
	before, after := newAuthority(t), newAuthority(t)
	files := tlsFiles(t)
	before.write(t, files, 1)
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
	after.write(t, files, 2)
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
	files := tlsFiles(t)
	for _, incomplete := range []api.TLSFiles{files, {CA: files.CA}, {Cert: files.Cert, Key: files.Key}} {
		if _, err := api.Listen(api.Config{Listen: []string{"tcp://127.0.0.1:0"}, TLS: incomplete}); err == nil {
			t.Errorf("%+v: listening succeeded", incomplete)
		}
	}
}
