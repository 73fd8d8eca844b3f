package overspan

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"net/netip"
	"regexp"
	"strings"
)

// LinkPrefix begins the name of every link that is ours: osb-, osx-, osv-.
const LinkPrefix = "os"

// AliasPrefix begins the ifalias of every link that is ours. Name prefix and
// alias together tell a restarted agent what it made.
const AliasPrefix = "overspan:"

// shortDigits of an id make a device name: IFNAMSIZ leaves 15 characters.
const shortDigits = 10

// BridgeName returns the name of a network's bridge: osb- and ten hex digits.
func BridgeName(id NetworkID) string { return "osb-" + short(string(id)) }

// VXLANName returns the name of a network's VXLAN device.
func VXLANName(id NetworkID) string { return "osx-" + short(string(id)) }

// VethName returns the name of the host end of an endpoint's veth pair.
func VethName(id EndpointID) string { return "osv-" + short(string(id)) }

func short(id string) string { return id[:min(shortDigits, len(id))] }

// NetworkAlias returns the ifalias of a network's bridge and VXLAN device.
func NetworkAlias(id NetworkID) string { return AliasPrefix + string(id) }

// EndpointAlias returns the ifalias of the host end of an endpoint's veth.
func EndpointAlias(n NetworkID, e EndpointID) string {
	return AliasPrefix + string(n) + "/" + string(e)
}

// ParseAlias takes an ifalias of ours apart; ok is false if it is not ours.
// The endpoint id is empty for a network's own devices.
func ParseAlias(alias string) (n NetworkID, e EndpointID, ok bool) {
	rest, found := strings.CutPrefix(alias, AliasPrefix)
	if !found || rest == "" {
		return "", "", false
	}
	netID, epID, _ := strings.Cut(rest, "/")
	return NetworkID(netID), EndpointID(epID), true
}

// ShortID returns the first twelve digits of an id, as tables show it.
func ShortID[T ~string](id T) string { return string(id[:min(12, len(id))]) }

// NewID draws a 256-bit random id: 64 hex digits.
func NewID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand, Go 1.24
	return hex.EncodeToString(b[:])
}

var nameSyntax = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// CheckName refuses a name that DNS, a file system or a command line would
// stumble over. What names the kind of object: "network".
func CheckName(what, name string) error {
	if nameSyntax.MatchString(name) {
		return nil
	}
	return Errorf(ErrInvalid, "invalid %s name %q: use 1 to 63 of a-z, A-Z, 0-9, '_', '.', '-', the first a letter or digit", what, name)
}

// idDigits are those of a whole id.
const idDigits = 64

// IsID reports whether s is a whole id of ours. Each key that etcd tells of is
// asked.
func IsID(s string) bool {
	if len(s) != idDigits {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// DefaultNetwork is the name of the bridge network that every node has: what is
// run without the name of a network is plugged in there.
const DefaultNetwork = "bridge"

// DefaultNetworkID returns the id of a node's default network, which is so known
// before its record is written. It is another one once the node was removed from
// the cluster and its networks with it.
func DefaultNetworkID(node NodeID, registration int64) NetworkID {
	sum := sha256.Sum256(fmt.Appendf(nil, "overspan default network of node %s, registered at %d", node, registration))
	return NetworkID(hex.EncodeToString(sum[:]))
}

// IsPredefined reports whether a name is that of a network that no user makes.
func IsPredefined(name string) bool {
	return name == string(DriverHost) || name == string(DriverNone) || name == DefaultNetwork
}

// Refers reports whether ref names an object that is not among records: by its
// name, its id, or at least as much of that as tables show.
func Refers[ID ~string](ref, name string, id ID) bool {
	return ref == name || len(ref) >= len(ShortID(id)) && strings.HasPrefix(string(id), ref)
}

// Match finds the one object that ref names: by its whole name, or by any
// unique prefix of its id. A whole name wins over a prefix of an id.
func Match[ID ~string](what, ref string, names iter.Seq2[ID, string]) (ID, error) {
	var none ID
	var named, prefixed []ID
	for id, name := range names {
		switch {
		case string(id) == ref:
			return id, nil
		case name == ref:
			named = append(named, id)
		case ref != "" && strings.HasPrefix(string(id), ref):
			prefixed = append(prefixed, id)
		}
	}
	found := named
	if len(found) == 0 {
		found = prefixed
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if ref == "" {
			return none, Errorf(ErrNotFound, "%s \"\" not found: the name is empty", what)
		}
		return none, Errorf(ErrNotFound, "%s %s not found", what, ref)
	}
	return none, Errorf(ErrInvalid, "%s %s is ambiguous: %d match; give more digits of the id", what, ref, len(found))
}

// hashMAC makes a locally administered unicast MAC outside the derived space
// from a text: 06 and the first five bytes of its SHA-256.
func hashMAC(text string) MAC {
	sum := sha256.Sum256([]byte(text))
	return MAC{0x06, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// A MAC is a 48-bit Ethernet address.
type MAC [6]byte

// IsZero reports whether the address is unset.
func (m MAC) IsZero() bool { return m == MAC{} }

// String returns the address as ip-link(8) prints it.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// IsDerived reports whether the address lies in the space of MACs that follow
// from slots: 02:42 and four bytes.
func (m MAC) IsDerived() bool { return m[0] == 0x02 && m[1] == 0x42 }

// LinkLocal returns the IPv6 address that follows from a MAC on its link: EUI-64.
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// ParseMAC reads six colon-separated pairs of hex digits. Only unicast,
// non-zero addresses are taken.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	raw, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(raw) != len(m) || len(s) != 17 {
		return MAC{}, Errorf(ErrInvalid, "invalid MAC address %q: want six pairs of hex digits such as 0a:00:00:00:00:01", s)
	}
	copy(m[:], raw)
	if m.String() != strings.ToLower(s) {
		return MAC{}, Errorf(ErrInvalid, "invalid MAC address %q: want six pairs of hex digits such as 0a:00:00:00:00:01", s)
	}
	if m.IsZero() || m[0]&1 != 0 {
		return MAC{}, Errorf(ErrInvalid, "invalid MAC address %s: not a unicast address", s)
	}
	return m, nil
}
