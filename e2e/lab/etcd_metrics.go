package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// Requests returns how many calls each member that can answer has had since it
// started, by the member's name. What members ask each other is not counted.
func (e *Etcd) Requests(ctx context.Context) (map[string]int, error) {
	out := map[string]int{}
	for _, m := range e.able() {
		n, err := m.requests(ctx)
		if err != nil {
			return nil, fmt.Errorf("count the requests of %s: %w", m.Name, err)
		}
		out[m.Name] = n
	}
	return out, nil
}

// requests sums up a member's counters of calls.
func (m *Member) requests(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.URL+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return m.etcd.dial(ctx, addr)
		},
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	sum := 0.0
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 2 || !strings.HasPrefix(words[0], "grpc_server_started_total{") {
			continue
		}
		n, err := strconv.ParseFloat(words[1], 64)
		if err != nil {
			return 0, fmt.Errorf("read %q: %w", lines.Text(), err)
		}
		sum += n
	}
	return int(sum), lines.Err()
}
