package api

import (
	"context"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/overspan/overspan"
)

// A DialFunc connects to the agent of another node. The connection is lazy:
// an error says that there is no way to reach it at all.
type DialFunc func(*overspan.Node) (*grpc.ClientConn, error)

// dialPeers returns a DialFunc for nodes that are configured like this one:
// they listen on their underlay address at our own TCP port, and their
// certificates, signed by our CA, name that address.
func dialPeers(listen []string, files TLSFiles) DialFunc {
	port := tcpPort(listen)
	return func(n *overspan.Node) (*grpc.ClientConn, error) {
		if port == "" || !files.set() {
			return nil, overspan.Errorf(overspan.ErrUnsupported, "this agent does not talk to others: give every agent a tcp:// address in --listen, --tls-ca, --tls-cert and --tls-key")
		}
		if len(n.VTEPs) == 0 {
			return nil, overspan.Errorf(overspan.ErrNotFound, "node %s has no underlay address", n.Name)
		}
		config, err := files.client()
		if err != nil {
			return nil, err
		}
		target := net.JoinHostPort(n.VTEPs[0].String(), port)
		return grpc.NewClient("passthrough:///"+target,
			grpc.WithTransportCredentials(credentials.NewTLS(config)),
			grpc.WithContextDialer(dialTCP))
	}
}

// dialTCP leaves proxies of the environment out.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// tcpPort returns the port of the first TCP listener; "" if there is none.
func tcpPort(listen []string) string {
	for _, address := range listen {
		rest, ok := strings.CutPrefix(address, "tcp://")
		if !ok {
			continue
		}
		if _, port, err := net.SplitHostPort(rest); err == nil {
			return port
		}
	}
	return ""
}
