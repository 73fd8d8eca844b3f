package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Stream is a TCP connection between two sandboxes over which a counter goes
// there and back without a pause.
type Stream struct {
	conn   net.Conn
	peer   net.Listener
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex // guards all below
	turns uint64
	err   error
}

// turnWithin bounds one turn of the counter: a stream that stalls this long
// has failed.
const turnWithin = 10 * time.Second

// streamPort is where the far end of a Stream listens.
const streamPort = 7007

// listenWithin bounds how long the port may be another stream's that has ended: a
// child of this program that is just being started holds what was open.
const listenWithin = 2 * time.Second

// StartStream connects to another sandbox and keeps the connection busy.
func (s *Sandbox) StartStream(ctx context.Context, to *Sandbox, addr netip.Addr) (*Stream, error) {
	st := &Stream{}
	at := netip.AddrPortFrom(addr, streamPort).String()
	err := Eventually(ctx, listenWithin, func(context.Context) error {
		return to.Do(func() (err error) {
			st.peer, err = net.Listen("tcp", at)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s on %s: %w", to.Name, to.Node.Name, err)
	}
	st.done.Go(st.echo)
	err = s.Do(func() (err error) {
		var d net.Dialer
		st.conn, err = d.DialContext(ctx, "tcp", at)
		return err
	})
	if err != nil {
		st.peer.Close()
		st.done.Wait()
		return nil, fmt.Errorf("connect from %s on %s: %w", s.Name, s.Node.Name, err)
	}
	busy, cancel := context.WithCancel(context.Background())
	st.cancel = cancel
	st.done.Go(func() { st.talk(busy) })
	return st, nil
}

// echo returns what one connection sends.
func (st *Stream) echo() {
	conn, err := st.peer.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	_, err = io.Copy(conn, conn)
	st.fail(err)
}

// talk sends the counter and checks what comes back.
func (st *Stream) talk(ctx context.Context) {
	defer st.conn.Close()
	var out, in [8]byte
	for turn := uint64(0); ctx.Err() == nil; turn++ {
		binary.BigEndian.PutUint64(out[:], turn)
		st.conn.SetDeadline(time.Now().Add(turnWithin))
		if _, err := st.conn.Write(out[:]); err != nil {
			st.fail(err)
			return
		}
		if _, err := io.ReadFull(st.conn, in[:]); err != nil {
			st.fail(err)
			return
		}
		if in != out {
			st.fail(errors.New("another number came back"))
			return
		}
		st.mu.Lock()
		st.turns++
		st.mu.Unlock()
	}
}

func (st *Stream) fail(err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.err = errors.Join(st.err, err)
}

// Stop ends the connection and returns how often the counter went there and
// back; an error if the connection broke.
func (st *Stream) Stop() (turns uint64, err error) {
	st.cancel()
	st.done.Wait()
	st.peer.Close()
	return st.turns, st.err
}
