package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Leader returns the member that leads.
func (e *Etcd) Leader(ctx context.Context) (*Member, error) {
	var errs []error
	for _, m := range e.able() {
		status, err := m.Status(ctx)
		if err == nil && status.Leader == status.Header.MemberId {
			return m, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(append(errs, errors.New("no member of etcd that can answer leads"))...)
}

// MoveLeader makes another member lead.
func (e *Etcd) MoveLeader(ctx context.Context, to *Member) error {
	leader, err := e.Leader(ctx)
	if err != nil {
		return err
	}
	if leader == to {
		return nil
	}
	next, err := to.Status(ctx)
	if err != nil {
		return err
	}
	client, err := leader.Client()
	if err != nil {
		return err
	}
	if _, err := client.MoveLeader(ctx, next.Header.MemberId); err != nil {
		return fmt.Errorf("move the lead from %s to %s: %w", leader.Name, to.Name, err)
	}
	return nil
}

// Compact forgets all history but the present.
func (e *Etcd) Compact(ctx context.Context) error {
	client, err := e.ableClient()
	if err != nil {
		return err
	}
	now, err := client.Get(ctx, Prefix+"meta")
	if err != nil {
		return fmt.Errorf("read etcd's revision: %w", err)
	}
	_, err = client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // nothing has happened since the last time
		return fmt.Errorf("compact etcd at revision %d: %w", now.Header.Revision, err)
	}
	return nil
}

// Defragment gives back the space of what was compacted, one member after the
// other; each stands still meanwhile.
func (e *Etcd) Defragment(ctx context.Context) error {
	for _, m := range e.able() {
		client, err := m.Client()
		if err != nil {
			return err
		}
		if _, err := client.Defragment(ctx, m.URL); err != nil {
			return fmt.Errorf("defragment %s: %w", m.Name, err)
		}
	}
	return nil
}

// ballastKey is where Fill writes: outside of the cluster's keys.
const ballastKey = "/ballast/"

// Fill writes until etcd is out of space and has raised the alarm. The lab
// needs a quota, or this takes for ever.
func (e *Etcd) Fill(ctx context.Context) error {
	client, err := e.ableClient()
	if err != nil {
		return err
	}
	stuff := string(make([]byte, 256<<10))
	for ctx.Err() == nil {
		e.ballast++
		_, err := client.Put(ctx, fmt.Sprintf("%s%d", ballastKey, e.ballast), stuff)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fill etcd: %w", err)
		}
	}
	return ctx.Err()
}

// Free takes away what Fill wrote, as an operator would, and disarms the alarm.
func (e *Etcd) Free(ctx context.Context) error {
	client, err := e.ableClient()
	if err != nil {
		return err
	}
	if _, err := client.Delete(ctx, ballastKey, clientv3.WithPrefix()); err != nil {
		return fmt.Errorf("empty etcd: %w", err)
	}
	if err := errors.Join(e.Compact(ctx), e.Defragment(ctx)); err != nil {
		return err
	}
	if _, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return fmt.Errorf("disarm etcd's alarms: %w", err)
	}
	return nil
}

// A Backup is a copy of what all members hold.
type Backup struct{ dir string }

// Backup stops the servers, copies their data, and starts them again.
func (e *Etcd) Backup(ctx context.Context) (Backup, error) {
	if err := e.Stop(ctx); err != nil {
		return Backup{}, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(e.Members[0].Dir), "backup-")
	if err != nil {
		return Backup{}, err
	}
	for _, m := range e.Members {
		if err := os.CopyFS(filepath.Join(dir, m.Name), os.DirFS(m.dataDir())); err != nil {
			return Backup{}, fmt.Errorf("copy the data of %s: %w", m.Name, err)
		}
	}
	return Backup{dir}, e.Start(ctx)
}

// Restore ends the servers and starts them on the data of a backup: same
// cluster, same members, as of then.
func (e *Etcd) Restore(ctx context.Context, b Backup) error {
	return e.reborn(ctx, func(m *Member) error {
		return os.CopyFS(m.dataDir(), os.DirFS(filepath.Join(b.dir, m.Name)))
	})
}

// Replace ends the servers and starts others in their place: empty ones, of a
// cluster with another id.
func (e *Etcd) Replace(ctx context.Context) error {
	e.lives++
	return e.reborn(ctx, func(*Member) error { return nil })
}

// Wipe ends the servers and starts them with nothing; the cluster's id stays.
func (e *Etcd) Wipe(ctx context.Context) error {
	return e.reborn(ctx, func(*Member) error { return nil })
}

// reborn starts all servers on other data.
func (e *Etcd) reborn(ctx context.Context, furnish func(*Member) error) error {
	if err := e.Kill(ctx); err != nil {
		return err
	}
	for _, m := range e.Members {
		if err := os.RemoveAll(m.dataDir()); err != nil {
			return err
		}
		if err := furnish(m); err != nil {
			return fmt.Errorf("furnish %s: %w", m.Name, err)
		}
	}
	return e.Start(ctx)
}
