package daemon

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/overspan/overspan/store"
)

// keyedLocks is a lock for every key that is in use.
type keyedLocks struct {
	mu    sync.Mutex // guards locks
	locks map[string]*keyedLock
}

type keyedLock struct {
	held  chan struct{} // size 1: full while somebody has the lock
	users int           // who have it or wait for it
}

// lock takes the key's lock and returns what gives it back, or why ctx ended
// before the lock was free.
func (k *keyedLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyedLock{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	select {
	case l.held <- struct{}{}:
	case <-ctx.Done():
		k.leave(key, l)
		return nil, ctx.Err()
	}
	return func() {
		<-l.held
		k.leave(key, l)
	}, nil
}

func (k *keyedLocks) leave(key string, l *keyedLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.locks, key)
	}
}

// sessionSlot holds the session while the node is registered.
type sessionSlot struct {
	mu      sync.Mutex // guards all below
	session *store.Session
	reason  error // why there is none
	failed  bool  // the last try to get one has failed
}

func (s *sessionSlot) set(session *store.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session, s.failed = session, false
}

// clear says why there is no session for now.
func (s *sessionSlot) clear(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session, s.reason, s.failed = nil, why, false
}

// fail says why a try to get one has failed.
func (s *sessionSlot) fail(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session, s.reason, s.failed = nil, why, true
}

// hasFailed reports whether the last try to register has failed.
func (s *sessionSlot) hasFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// get returns the session, or why there is none.
func (s *sessionSlot) get() (session *store.Session, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		return s.session, nil
	}
	return nil, s.reason
}

// idSet is a set of ids for several goroutines.
type idSet[K comparable] struct {
	mu  sync.Mutex // guards set
	set map[K]struct{}
}

func (s *idSet[K]) add(id K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		s.set = map[K]struct{}{}
	}
	s.set[id] = struct{}{}
}

// drop reports whether the id was in the set.
func (s *idSet[K]) drop(id K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was := s.set[id]
	delete(s.set, id)
	return was
}

func (s *idSet[K]) has(id K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.set[id]
	return ok
}

func (s *idSet[K]) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.set)
}

// spread draws a time around another, so that agents that were started at the
// same moment do not ask etcd at the same moment ever after.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d) }
