package overspan_test

import (
	"testing"

	"github.com/overspan/overspan"
)

func TestNamespacesAreToldApart(t *testing.T) {
	whole := overspan.NetnsID{Dev: 4, Ino: 7, Boot: "b1", Cookie: 9}
	for _, test := range []struct {
		name  string
		other overspan.NetnsID
		same  bool
	}{
		{"itself", whole, true},
		{"another number", overspan.NetnsID{Dev: 4, Ino: 8, Boot: "b1", Cookie: 9}, false},
		{"another device", overspan.NetnsID{Dev: 5, Ino: 7, Boot: "b1", Cookie: 9}, false},
		{"the number again", overspan.NetnsID{Dev: 4, Ino: 7, Boot: "b1", Cookie: 10}, false},
		{"after a reboot", overspan.NetnsID{Dev: 4, Ino: 7, Boot: "b2", Cookie: 9}, false},
		{"after a reboot of a kernel without cookies", overspan.NetnsID{Dev: 4, Ino: 7, Boot: "b2"}, false},
		{"a kernel without cookies", overspan.NetnsID{Dev: 4, Ino: 7, Boot: "b1"}, true},
		{"a record of an earlier version", overspan.NetnsID{Dev: 4, Ino: 7}, true},
		{"nothing", overspan.NetnsID{}, false},
	} {
		if whole.Is(test.other) != test.same || test.other.Is(whole) != test.same {
			t.Errorf("%s: %+v is %+v: want %t", test.name, whole, test.other, test.same)
		}
	}
}
