package local

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

// TestAttachments holds what attachments are found by against a
// search in their list, over random histories, and a copy against what it was.
func TestAttachments(t *testing.T) {
	networks, sandboxes := []overspan.NetworkID{"a", "b", "c"}, []overspan.SandboxID{"s", "t"}
	check := func(t *rapid.T, at Attachments, all []*overspan.Attachment) {
		for _, id := range networks {
			want := slices.DeleteFunc(slices.Clone(all), func(a *overspan.Attachment) bool { return a.Endpoint.Network != id })
			if got := at.InNetwork(id); !slices.Equal(got, want) {
				t.Fatalf("network %s has %v, want %v", id, valuesOf(got), valuesOf(want))
			}
		}
		for _, id := range sandboxes {
			want := slices.DeleteFunc(slices.Clone(all), func(a *overspan.Attachment) bool { return a.Sandbox != id })
			if got := at.InSandbox(id); !slices.Equal(got, want) {
				t.Fatalf("sandbox %s has %v, want %v", id, valuesOf(got), valuesOf(want))
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		at := AttachmentsOf()
		var copied Attachments
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			id := rapid.SampledFrom([]overspan.EndpointID{"1", "2", "3", "4"}).Draw(t, "id")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				at.remove(id)
			case 1:
				copied = at
			default:
				at.Put(&overspan.Attachment{
					Sandbox: rapid.SampledFrom(sandboxes).Draw(t, "sandbox"),
					Endpoint: overspan.Endpoint{
						ID: id, Network: rapid.SampledFrom(networks).Draw(t, "network"),
						Created: time.Unix(int64(rapid.IntRange(0, 2).Draw(t, "second")), 0),
					},
				})
			}
			check(t, at, at.List)
			check(t, copied, copied.List)
		}
	})
}
