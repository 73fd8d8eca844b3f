package ports

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
)

// process names the process that has a port, as far as /proc tells; "" if it
// does not. It only serves an error's words.
func process(p overspan.Port) string {
	file := "/proc/thread-self/net/" + string(p.Protocol)
	if p.HostIP.Is6() {
		file += "6"
	}
	inode := socketInode(file, p)
	if inode == "" {
		return ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
			pid := strings.Split(link, "/")[2]
			name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			if err != nil {
				return "process " + pid
			}
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return ""
}

// socketInode finds a socket that is bound where a port would be: proc(5),
// /proc/net/tcp.
func socketInode(file string, p overspan.Port) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[9] == "0" {
			continue
		}
		if at, ok := parseLocal(fields[1]); ok && at.Port() == p.HostPort && overlap(at.Addr(), p.HostIP) {
			return fields[9]
		}
	}
	return ""
}

// parseLocal reads "0100007F:1F90": the address is written as words in the
// machine's order, which is little-endian wherever we run.
func parseLocal(text string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	n, bad := strconv.ParseUint(port, 16, 16)
	if err != nil || bad != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(n)), ok
}
