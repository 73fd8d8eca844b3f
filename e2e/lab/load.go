package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/internal/minihost"
)

// A Path leads packets from one network namespace to an address in another:
// between hosts, or between sandboxes.
type Path struct {
	From, To interface{ Do(func() error) error }
	Addr     netip.Addr // of To
}

const (
	// bulkBytes is how much one write of a Bulk hands to the kernel.
	bulkBytes = 128 << 10

	// loadWarm is how long a connection sends before its speed counts.
	loadWarm = 30 * time.Millisecond

	// loadStall is how long one read or write may take at most.
	loadStall = 10 * time.Second
)

// Bulk sends over some TCP connections at once and returns how many bytes a
// second arrived, over a while that begins when all are at speed.
func (p Path) Bulk(ctx context.Context, connections int, while time.Duration) (float64, error) {
	var arrived atomic.Int64
	var stop atomic.Bool
	var all sync.WaitGroup
	errs := make([]error, 2*connections)
	for i := range connections {
		from, to, err := p.connect(ctx)
		if err != nil {
			stop.Store(true)
			all.Wait()
			return 0, err
		}
		all.Go(func() {
			errs[2*i] = minihost.OnThread(func() error { return pour(from, &stop) })
		})
		all.Go(func() {
			errs[2*i+1] = minihost.OnThread(func() error { return drain(to, &arrived) })
		})
	}
	<-time.After(loadWarm)
	begin, before := time.Now(), arrived.Load()
	<-time.After(while)
	speed := float64(arrived.Load()-before) / time.Since(begin).Seconds()
	stop.Store(true)
	all.Wait()
	return speed, errors.Join(errs...)
}

// pour writes until it is told to stop, and closes the connection.
func pour(conn *os.File, stop *atomic.Bool) error {
	defer conn.Close()
	buf := make([]byte, bulkBytes)
	for !stop.Load() {
		if _, err := uninterrupted(unix.Write, int(conn.Fd()), buf); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// drain reads until the other end has closed the connection.
func drain(conn *os.File, arrived *atomic.Int64) error {
	defer conn.Close()
	buf := make([]byte, bulkBytes)
	for {
		n, err := uninterrupted(unix.Read, int(conn.Fd()), buf)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if n == 0 {
			return nil
		}
		arrived.Add(int64(n))
	}
}

// uninterrupted calls again what a signal of the runtime has interrupted.
func uninterrupted(call func(int, []byte) (int, error), fd int, buf []byte) (int, error) {
	for {
		if n, err := call(fd, buf); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// Turns are what a request and its answer took, over and over.
type Turns struct {
	Took []time.Duration // each

	// Work is the processor's time for an average turn, whatever else ran
	// meanwhile: of both ends, and of the kernel between them.
	Work time.Duration
}

// Turns sends one byte there and one back over a TCP connection, again and
// again for a while. Both ends run on the same processor: then a turn takes
// what the kernel works for it, and no waking of another processor.
func (p Path) Turns(ctx context.Context, while time.Duration) (Turns, error) {
	from, to, err := p.connect(ctx)
	if err != nil {
		return Turns{}, err
	}
	var answering sync.WaitGroup
	var answerErr error
	var answerWork, askWork time.Duration
	answering.Go(func() {
		answerErr = minihost.OnThread(func() error { return working(&answerWork, func() error { return answer(to) }) })
	})
	var took []time.Duration
	err = minihost.OnThread(func() error {
		return working(&askWork, func() (err error) {
			took, err = ask(from, while)
			return err
		})
	})
	answering.Wait()
	if err := errors.Join(err, answerErr); err != nil {
		return Turns{}, err
	}
	return Turns{Took: took, Work: (askWork + answerWork) / time.Duration(len(took))}, nil
}

// working runs f on a thread of its own processor, and measures the processor's
// time that the thread takes.
func working(work *time.Duration, f func() error) error {
	if err := pin(); err != nil {
		return err
	}
	begin, err := threadTime()
	if err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	end, err := threadTime()
	*work = end - begin
	return err
}

// threadTime is how long the calling thread has run.
func threadTime() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		return 0, fmt.Errorf("read the thread's clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

func ask(conn *os.File, while time.Duration) ([]time.Duration, error) {
	defer conn.Close()
	fd, one := int(conn.Fd()), []byte{1}
	took := make([]time.Duration, 0, 1<<14)
	begin := time.Now()
	for last := begin; last.Sub(begin) < while; {
		if _, err := uninterrupted(unix.Write, fd, one); err != nil {
			return nil, fmt.Errorf("ask: %w", err)
		}
		if n, err := uninterrupted(unix.Read, fd, one); err != nil || n != 1 {
			return nil, fmt.Errorf("hear an answer of %d bytes: %w", n, err)
		}
		now := time.Now()
		took = append(took, now.Sub(last))
		last = now
	}
	return took, nil
}

func answer(conn *os.File) error {
	defer conn.Close()
	fd, one := int(conn.Fd()), []byte{1}
	for {
		n, err := uninterrupted(unix.Read, fd, one)
		if err != nil || n == 0 {
			return err
		}
		if _, err := uninterrupted(unix.Write, fd, one); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// pin ties the calling thread to the last processor that it may run on.
func pin() error {
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return fmt.Errorf("list processors: %w", err)
	}
	last := 0
	for cpu := range len(may) * 64 {
		if may.IsSet(cpu) {
			last = cpu
		}
	}
	one.Set(last)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("choose a processor: %w", err)
	}
	return nil
}

// connect opens a TCP connection along the path and returns both ends, as
// sockets whose calls block: the runtime's poller would be measured too.
func (p Path) connect(ctx context.Context) (from, to *os.File, err error) {
	var l net.Listener
	err = p.To.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(p.Addr, 0).String())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	accepted := make(chan struct{})
	var accepting error
	go func() {
		defer close(accepted)
		var conn net.Conn
		if conn, accepting = l.Accept(); accepting == nil {
			to, accepting = blocking(conn)
		}
	}()
	err = p.From.Do(func() error {
		d := net.Dialer{Timeout: loadStall}
		conn, err := d.DialContext(ctx, "tcp", l.Addr().String())
		if err == nil {
			from, err = blocking(conn)
		}
		return err
	})
	if err != nil {
		l.Close()
	}
	<-accepted
	if err := errors.Join(err, accepting); err != nil {
		for _, end := range []*os.File{from, to} {
			if end != nil {
				end.Close()
			}
		}
		return nil, nil, fmt.Errorf("connect to %s: %w", p.Addr, err)
	}
	return from, to, nil
}

// blocking turns a connection (TCP_NODELAY is Go's default) into a file whose
// reads and writes block, but not for ever.
func blocking(conn net.Conn) (*os.File, error) {
	defer conn.Close()
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	fd := int(file.Fd())
	stall := unix.NsecToTimeval(loadStall.Nanoseconds())
	if err := errors.Join(
		unix.SetNonblock(fd, false),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &stall),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &stall),
	); err != nil {
		file.Close()
		return nil, fmt.Errorf("make a socket block: %w", err)
	}
	return file, nil
}
