package api

import (
	"strconv"
	"strings"
	"time"

	"github.com/overspan/overspan"
)

// zoneless are the ways to write a moment that may be followed by a zone.
var zoneless = []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02"}

// parseMoment takes what docker takes: how long ago (10m, 1h30m), a date, with
// or without time and zone, or seconds since 1970, with or without a fraction.
// A date without zone is one of now's.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	if t, ok := parseUnix(text); ok {
		return t, nil
	}
	for _, layout := range zoneless {
		if t, err := time.Parse(layout+"Z07:00", text); err == nil {
			return t, nil
		}
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, overspan.Errorf(overspan.ErrInvalid, "%q is no time: use how long ago (10m, 1h30m), a date (2026-11-21T08:00:00Z), or seconds since 1970", text)
}

// parseUnix takes seconds since 1970; ok is false if the text is none.
func parseUnix(text string) (t time.Time, ok bool) {
	whole, fraction, _ := strings.Cut(text, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(fraction) > 9 || strings.HasSuffix(text, ".") {
		return time.Time{}, false
	}
	nanos, err := strconv.ParseUint("0"+fraction+strings.Repeat("0", 9-len(fraction)), 10, 64)
	return time.Unix(seconds, int64(nanos)), err == nil
}
