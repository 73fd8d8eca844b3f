package api

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// TLSFiles are PEM files: the CA that signs agents and clients, and this
// agent's certificate and key, shown to both. They are read again when they
// change on disk.
type TLSFiles struct {
	CA, Cert, Key string
}

// set reports whether TLS is wanted at all.
func (f TLSFiles) set() bool { return f != TLSFiles{} }

// server returns a configuration that asks every client for a certificate of
// the CA. What stands on disk at a handshake counts; while it cannot be read,
// or certificate and key do not match yet, the last that could be is used.
func (f TLSFiles) server() (*tls.Config, error) {
	r := &reloader{files: f}
	if err := r.reload(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.current(), nil },
	}, nil
}

// client returns a configuration that shows our certificate and expects the
// peer's to be of the CA and to name the address that is dialled.
func (f TLSFiles) client() (*tls.Config, error) {
	cert, pool, err := f.load()
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool}, nil
}

func (f TLSFiles) load() (tls.Certificate, *x509.CertPool, error) {
	if f.CA == "" || f.Cert == "" || f.Key == "" {
		return tls.Certificate{}, nil, overspan.Errorf(overspan.ErrInvalid, "mutual TLS needs all of --tls-ca, --tls-cert and --tls-key")
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return tls.Certificate{}, nil, overspan.Errorf(overspan.ErrInvalid, "load certificate %s and key %s: %w", f.Cert, f.Key, err)
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return tls.Certificate{}, nil, overspan.Errorf(overspan.ErrInvalid, "load CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return tls.Certificate{}, nil, overspan.Errorf(overspan.ErrInvalid, "load CA %s: no PEM certificate in it", f.CA)
	}
	return cert, pool, nil
}

// reloader keeps a server's configuration in line with its files.
type reloader struct {
	files TLSFiles

	mu     sync.Mutex // guards what follows
	seen   [3]stamp   // of the files that config was read from
	config *tls.Config
}

// A stamp changes when a file is rewritten or replaced.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

// current returns the configuration of the files as they are now.
func (r *reloader) current() *tls.Config {
	// A failure is of the moment: the files are being replaced.
	_ = r.reload()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config
}

// reload reads the files if they changed since they were read last.
func (r *reloader) reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, err := r.files.stamps()
	if err != nil {
		return err
	}
	if r.config != nil && seen == r.seen {
		return nil
	}
	cert, pool, err := r.files.load()
	if err != nil {
		return err
	}
	r.seen = seen
	r.config = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2"}, // gRPC clients insist on it
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		// A resumed session would skip the check of dates and CA.
		SessionTicketsDisabled: true,
	}
	return nil
}

func (f TLSFiles) stamps() (out [3]stamp, err error) {
	for i, path := range []string{f.CA, f.Cert, f.Key} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return out, overspan.Errorf(overspan.ErrInvalid, "load %s: %w", path, err)
		}
		out[i] = stamp{time.Unix(st.Mtim.Unix()), st.Size, st.Ino}
	}
	return out, nil
}
