package store

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo sends etcd's log to log, what is info to etcd as debug, and nothing above
// the level most. A nil log is silent.
func zapTo(log *slog.Logger, most slog.Level) *zap.Logger {
	if log == nil {
		return zap.NewNop()
	}
	return zap.New(&slogCore{log: log, most: most})
}

// slogCore is a zapcore.Core that writes to a slog.Logger. etcd's info is
// debug to us; its debug, a line for each request, is left out.
type slogCore struct {
	log  *slog.Logger
	most slog.Level // what is graver is logged as this
}

func (c *slogCore) level(l zapcore.Level) slog.Level {
	level := slog.LevelDebug
	switch {
	case l >= zapcore.ErrorLevel:
		level = slog.LevelError
	case l == zapcore.WarnLevel:
		level = slog.LevelWarn
	}
	return min(level, c.most)
}

// Enabled implements zapcore.Core.
func (c *slogCore) Enabled(l zapcore.Level) bool {
	return l >= zapcore.InfoLevel && c.log.Enabled(context.Background(), c.level(l))
}

// With implements zapcore.Core.
func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{log: c.log.With(attrs(fields)...), most: c.most}
}

// Check implements zapcore.Core.
func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.log.Log(context.Background(), c.level(e.Level), e.Message, attrs(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c *slogCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	out := make([]any, 0, len(fields))
	for _, f := range fields {
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		for key, value := range enc.Fields {
			out = append(out, slog.Any(key, value))
		}
	}
	return out
}
