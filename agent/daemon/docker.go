package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/overspan/overspan"
)

// docker asks a Docker engine where a container's namespace is. It speaks the
// one call that it needs of the Engine API, which every version has.
type docker struct {
	socket string // path of the engine's unix socket
	client *http.Client
}

func newDocker(socket string) *docker {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &docker{
		socket: socket,
		client: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 5 * time.Second},
	}
}

// containerJSON is the part of the engine's answer that is read.
type containerJSON struct {
	Name  string // begins with a slash
	State struct {
		Running bool
		Pid     int
	}
	HostConfig struct{ NetworkMode string }
}

// sandbox returns a running container's namespace.
func (d *docker) sandbox(ctx context.Context, ref string) (overspan.Sandbox, error) {
	if ref == "" {
		return overspan.Sandbox{}, overspan.Errorf(overspan.ErrInvalid, "invalid target docker: want docker:NAME")
	}
	c, err := d.inspect(ctx, ref)
	if err != nil {
		return overspan.Sandbox{}, err
	}
	switch {
	case !c.State.Running || c.State.Pid == 0:
		return overspan.Sandbox{}, overspan.Errorf(overspan.ErrInvalid, "container %s is not running: start it first", ref)
	case c.HostConfig.NetworkMode == "host":
		return overspan.Sandbox{}, overspan.Errorf(overspan.ErrInvalid, "container %s uses the host's network: only containers with a network namespace of their own can be connected", ref)
	}
	return overspan.Sandbox{
		Name:  strings.TrimPrefix(c.Name, "/"),
		Kind:  overspan.SandboxDocker,
		Netns: fmt.Sprintf("/proc/%d/ns/net", c.State.Pid),
		PID:   c.State.Pid,
	}, nil
}

func (d *docker) inspect(ctx context.Context, ref string) (containerJSON, error) {
	var c containerJSON
	target := "http://docker/containers/" + url.PathEscape(ref) + "/json"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return c, fmt.Errorf("inspect container %s: %w", ref, err)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return c, overspan.Errorf(overspan.ErrUnavailable, "cannot ask Docker for container %s: is dockerd running at %s? (%w)", ref, d.socket, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return c, overspan.Errorf(overspan.ErrUnavailable, "inspect container %s: %w", ref, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return c, overspan.Errorf(overspan.ErrNotFound, "container %s not found: Docker at %s does not know it", ref, d.socket)
	default:
		return c, overspan.Errorf(overspan.ErrUnavailable, "inspect container %s: Docker answered %s", ref, resp.Status)
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, overspan.Errorf(overspan.ErrUnavailable, "inspect container %s: Docker's answer cannot be read: %w", ref, err)
	}
	return c, nil
}
