package store

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLogOfEtcd(t *testing.T) {
	var out strings.Builder
	log := zapTo(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})), slog.LevelWarn)
	log.Debug("a request")
	log.Info("told")
	log.Warn("warned")
	log.Error("failed")
	want := "level=DEBUG msg=told\nlevel=WARN msg=warned\nlevel=WARN msg=failed\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}
