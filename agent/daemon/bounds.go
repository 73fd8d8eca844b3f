package daemon

import "time"

// What a user asks for is done or refused within five seconds, whatever etcd does:
// requestBound for etcd's part, and undoBound on top where half of it has to be
// taken back. The kernel may take longer, and peers that do not answer are waited for
// beside that, once the endpoint is there. store's callTimeout bounds each call.
const (
	// requestBound is how long a request may take that needs etcd: what cannot be
	// done by then is undone and said.
	requestBound = 4 * time.Second

	// undoBound is how long the undoing of half an attach may take before the
	// caller hears of it; what is left is finished in the background.
	undoBound = 800 * time.Millisecond

	// answerWithin is when a caller has to have an answer by whom a standstill has
	// kept waiting.
	answerWithin = 4900 * time.Millisecond

	// kernelBound is how long the kernel's part of a request may take. A host that is
	// busy booting may be slow.
	kernelBound = 15 * time.Second

	// seenBound is how long the mirror has to show what etcd has taken, where the
	// kernel has used up the request's time.
	seenBound = time.Second

	// askBound is how long a node waits for a holder to answer its want.
	askBound = 2 * time.Second

	// trustBound is how long a node waits for an etcd that it can trust before it
	// says that it has to.
	trustBound = 3 * time.Second

	// releaseBound is how long a user waits for etcd to hear of a disconnect.
	releaseBound = time.Second

	// peersBound is how long connect waits for the peers.
	peersBound = 2 * time.Second

	// removeBound is how long it may take to free what a removed node held before its
	// caller hears of it: what is left then is freed by housekeeping.
	removeBound = 20 * time.Second
)

// An attach that took longer than standstill may have stood still, with the whole
// process: what it knows may be old then. A look at etcd takes standstillLook at
// most, and what is left until answerWithin, unless that has passed as well.
const (
	standstill     = time.Second
	standstillLook = 500 * time.Millisecond
)
