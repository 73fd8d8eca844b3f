package api

import (
	"errors"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

func TestParseMoment(t *testing.T) {
	zone := time.FixedZone("here", 2*60*60)
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, zone)
	for _, tt := range []struct {
		text string
		want time.Time
	}{
		{"10m", now.Add(-10 * time.Minute)},
		{"1h30m", now.Add(-90 * time.Minute)},
		{"0s", now},
		{"-5s", now.Add(5 * time.Second)},
		{"2026-11-21T07:00:00Z", time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC)},
		{"2026-11-21T07:00:00.5+01:00", time.Date(2026, 11, 21, 6, 0, 0, 5e8, time.UTC)},
		{"2026-11-21T07:00:00", time.Date(2026, 11, 21, 7, 0, 0, 0, zone)},
		{"2026-11-21T07:00:00.25", time.Date(2026, 11, 21, 7, 0, 0, 25e7, zone)},
		{"2026-11-21T07:00", time.Date(2026, 11, 21, 7, 0, 0, 0, zone)},
		{"2026-11-21T07:00Z", time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC)},
		{"2026-11-21T07", time.Date(2026, 11, 21, 7, 0, 0, 0, zone)},
		{"2026-11-21", time.Date(2026, 11, 21, 0, 0, 0, 0, zone)},
		{"2026-11-21Z", time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)},
		{"1795248000", time.Unix(1795248000, 0)},
		{"1795248000.000000001", time.Unix(1795248000, 1)},
		{"1795248000.5", time.Unix(1795248000, 5e8)},
	} {
		if got, err := parseMoment(tt.text, now); err != nil || !got.Equal(tt.want) {
			t.Errorf("%s is %v, %v; want %v", tt.text, got, err, tt.want)
		}
	}
	for _, text := range []string{"", "yesterday", "2026-13-01", "2026-11-21 07:00", "1.", "1.5.5", "1.-5", "1.0123456789", "10x"} {
		if got, err := parseMoment(text, now); !errors.Is(err, overspan.ErrInvalid) {
			t.Errorf("%q is %v, %v; want an error of class invalid", text, got, err)
		}
	}
}

// FuzzParseMoment: whatever is given, an error or a time.
func FuzzParseMoment(f *testing.F) {
	for _, text := range []string{"10m", "2026-11-21T07:00:00Z", "1795248000.5", "-1.5", "9999999999999999999"} {
		f.Add(text)
	}
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseMoment(text, now); err != nil && (!errors.Is(err, overspan.ErrInvalid) || !got.IsZero()) {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	})
}
