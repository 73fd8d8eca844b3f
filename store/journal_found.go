package store

import (
	"errors"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// bucketFound holds what this host was like before an agent first changed it,
// for the day on which everything is taken off it again.
const bucketFound = "found"

// Its keys: one for the tables, and one for each sysctl behind a prefix.
const (
	keyTables       = "tables"
	prefixForSysctl = "sysctl/"
)

// Found is what a host was like before an agent first changed it.
type Found struct {
	Sysctls map[string]string // those that an agent has changed, by path below /proc/sys
	Tables  []string          // packet filter tables that held nothing, as "ipv4 nat"
	Noted   bool              // Tables were looked for
}

// NoteSysctls notes what settings are before they are changed, by path below
// /proc/sys. What was noted before stands.
func (j *Journal) NoteSysctls(was map[string]string) error {
	err := j.update(bucketFound, prefixForSysctl, func(tx *bolt.Tx) error {
		bucket, fresh := tx.Bucket([]byte(bucketFound)), false
		for path, value := range was {
			key := []byte(prefixForSysctl + path)
			if bucket.Get(key) != nil {
				continue
			}
			if err := bucket.Put(key, []byte(value)); err != nil {
				return err
			}
			fresh = true
		}
		if !fresh {
			return errSame
		}
		return nil
	})
	if errors.Is(err, errSame) {
		return nil
	}
	return err
}

// NoteTables notes which packet filter tables hold nothing.
func (j *Journal) NoteTables(tables []string) error {
	return j.put(bucketFound, keyTables, []byte(strings.Join(tables, "\n")))
}

// Found returns what was noted.
func (j *Journal) Found() (Found, error) {
	f := Found{Sysctls: map[string]string{}}
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketFound)).ForEach(func(key, value []byte) error {
			if path, ok := strings.CutPrefix(string(key), prefixForSysctl); ok {
				f.Sysctls[path] = string(value)
			}
			if string(key) == keyTables {
				f.Noted = true
				f.Tables = slices.DeleteFunc(strings.Split(string(value), "\n"), func(s string) bool { return s == "" })
			}
			return nil
		})
	})
	return f, err
}

// ForgetFound drops what was noted: the host is as it was.
func (j *Journal) ForgetFound() error {
	return j.update(bucketFound, "", func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket([]byte(bucketFound)); err != nil {
			return err
		}
		_, err := tx.CreateBucket([]byte(bucketFound))
		return err
	})
}
