package store

import (
	"context"
	"time"
)

// probe asks etcd at every interval whether it is there, which a watch would
// not notice.
func (m *Mirror) probe(ctx context.Context, updates chan<- update) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		pause.Reset(m.probePause())
		probeCtx, cancel := context.WithTimeout(ctx, m.cfg.Probe)
		history := m.currentHistory()
		_, rev, err := m.check(probeCtx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		m.report(history, "probe", err)
		if err == nil {
			m.mu.Lock()
			reach := min(m.wanted, rev)
			m.mu.Unlock()
			select {
			case updates <- update{probe: reach}:
			case <-ctx.Done():
			}
		}
	}
}

// askProgress asks for progress when somebody waits for it; those who poke
// while it asks share the next question.
func (m *Mirror) askProgress(ctx context.Context) {
	for {
		select {
		case <-m.ask:
			if err := m.kv.Progress(ctx); err != nil && ctx.Err() == nil {
				m.log.Debug("request progress", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}
