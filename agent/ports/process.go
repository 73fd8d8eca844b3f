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

// programsAt names the programs that have ports, as far as /proc tells. It only
// serves an error's words. It looks at each table and each process once.
func programsAt(ports []overspan.Port) map[overspan.Port]string {
	byFile := make(map[string][]overspan.Port)
	for _, p := range ports {
		file := "/proc/thread-self/net/" + string(p.Protocol)
		if p.HostIP.Is6() {
			file += "6"
		}
		byFile[file] = append(byFile[file], p)
	}
	wanted := make(map[string][]overspan.Port) // by what a process calls their socket
	for file, those := range byFile {
		findSockets(file, those, wanted)
	}
	out := make(map[overspan.Port]string)
	if len(wanted) == 0 {
		return out
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return out
	}
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil {
			continue // it has ended, or closed it
		}
		for _, p := range wanted[to] {
			out[p] = program(strings.Split(link, "/")[2])
		}
	}
	return out
}

// program names a process for people.
func program(pid string) string {
	name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
}

// findSockets adds the sockets that are bound where ports would be: proc(5),
// /proc/net/tcp.
func findSockets(file string, ports []overspan.Port, found map[string][]overspan.Port) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[9] == "0" {
			continue
		}
		at, ok := parseLocal(fields[1])
		for _, p := range ports {
			if ok && at.Port() == p.HostPort && overlap(at.Addr(), p.HostIP) {
				socket := "socket:[" + fields[9] + "]"
				found[socket] = append(found[socket], p)
			}
		}
	}
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
