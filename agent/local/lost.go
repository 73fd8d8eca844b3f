package local

import (
	"fmt"

	"github.com/overspan/overspan"
)

// ConnectAgain is what can be done about an endpoint that is lost.
const ConnectAgain = "; disconnect it and connect it again"

// BelongsTo says that an endpoint's address is another node's.
func BelongsTo(s *overspan.Snapshot, e overspan.Endpoint, holder overspan.NodeID) string {
	return fmt.Sprintf("%s now belongs to node %s", e.Addrs()[0], s.NodeName(holder))
}
