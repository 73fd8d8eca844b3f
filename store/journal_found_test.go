package store

import (
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFound: what was first noted stands, also in the next run, until the host
// is as it was.
func TestFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	check := func(j *Journal, want Found) {
		t.Helper()
		got, err := j.Found()
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("Found: %v (-want +got):\n%s", err, diff)
		}
	}
	for run := range 2 {
		j, err := OpenJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			check(j, Found{Sysctls: map[string]string{}})
			for _, err := range []error{
				j.NoteTables([]string{"ipv4 nat", "ipv6 raw"}),
				j.NoteSysctls(map[string]string{"net/ipv4/ip_forward": "0"}),
				j.NoteSysctls(map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/eth0/accept_ra": "1"}),
			} {
				if err != nil {
					t.Error(err)
				}
			}
		}
		check(j, Found{
			Sysctls: map[string]string{"net/ipv4/ip_forward": "0", "net/ipv6/conf/eth0/accept_ra": "1"},
			Tables:  []string{"ipv4 nat", "ipv6 raw"},
			Noted:   true,
		})
		if run == 1 {
			if err := j.ForgetFound(); err != nil {
				t.Error(err)
			}
			check(j, Found{Sysctls: map[string]string{}})
			if err := j.NoteTables(nil); err != nil {
				t.Error(err)
			}
			check(j, Found{Sysctls: map[string]string{}, Tables: []string{}, Noted: true})
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsFoundFirstStandsForAll(t *testing.T) {
	j, err := OpenJournal(filepath.Join(t.TempDir(), "journal.db"))
	mustDo(t, err)
	defer j.Close()
	const setting = "net/ipv4/ip_forward"
	var seen [8]string
	var wg sync.WaitGroup
	for i := range seen {
		wg.Go(func() {
			found, err := Found{}, j.NoteSysctls(map[string]string{setting: strconv.Itoa(i)})
			if err == nil {
				found, err = j.Found()
			}
			if err != nil {
				t.Error(err)
			}
			seen[i] = found.Sysctls[setting]
		})
	}
	wg.Wait()
	for _, s := range seen {
		if s != seen[0] {
			t.Fatalf("what was found is %q, one after the other; want that the first stands", seen)
		}
	}
}
