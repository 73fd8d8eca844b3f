// Package steps names the moments between the steps of what an agent does to
// etcd, the journal and the kernel, so that a test can stop an agent at exactly
// one of them and see what becomes of the operation afterwards.
//
// In an ordinary build At does nothing. The tag "steps" makes the agent that
// the lab runs: there the file that OVERSPAN_STOP_AT names holds the moment at
// which the process is to stop itself.
package steps

// A Moment lies between two steps of an operation.
type Moment string

// The moments of an operation, in the order in which it passes them, but for
// the transactions that it sends: see Flight.
const (
	AttachBegun     Moment = "attach.begun"     // the sandbox's gate is taken; no slot is chosen
	AttachChosen    Moment = "attach.chosen"    // slots are chosen; nothing is written
	AttachPreparing Moment = "attach.preparing" // beside the transaction: before the kernel has the veth
	AttachPrepared  Moment = "attach.prepared"  // beside the transaction: the veth is there, on no bridge
	AttachCommitted Moment = "attach.committed" // record and veth are there
	AttachNoted     Moment = "attach.noted"     // beside the pass: the journal has it
	AttachPlugged   Moment = "attach.plugged"   // the host end is a port of the bridge
	AttachConfirmed Moment = "attach.confirmed" // the peers have been waited for; the caller knows nothing

	UndoBegun     Moment = "undo.begun"     // an attach has failed
	UndoUnplugged Moment = "undo.unplugged" // its veth is off
	UndoForgotten Moment = "undo.forgotten" // the journal does not have it; its record may stand

	DetachBegun     Moment = "detach.begun"     // the sandbox's gate is taken
	DetachDeferred  Moment = "detach.deferred"  // the journal has a release instead of an attachment
	DetachUnplugged Moment = "detach.unplugged" // the port is off its bridge

	ReleaseDue       Moment = "release.due"       // of a pending release: nothing is done yet
	ReleaseUnplugged Moment = "release.unplugged" // of a pending release: its port is off
	ReleaseDone      Moment = "release.done"      // the record is gone; the slots are not free here
	ReleaseFreed     Moment = "release.freed"     // they are; the journal still has the release
	ReleaseForgotten Moment = "release.forgotten" // the caller knows nothing

	ClaimBegun Moment = "claim.begun" // a range is chosen; nothing is written
	ClaimNoted Moment = "claim.noted" // the journal follows the network
	ClaimDone  Moment = "claim.done"  // the block is ours; no snapshot shows it

	WantBegun Moment = "want.begun" // a holder is chosen; nothing is written
	WantNoted Moment = "want.noted" // the journal follows the network
	WantPut   Moment = "want.put"   // the want stands; its answer is waited for
	WantMet   Moment = "want.met"   // the holder has answered; nothing of it is taken

	YieldOffered Moment = "yield.offered" // what to give is set aside
	YieldDone    Moment = "yield.done"    // it is given; no snapshot shows it

	GiveBackBegun Moment = "giveback.begun" // a block is found idle
	GiveBackDone  Moment = "giveback.done"  // it is given back; no snapshot shows it

	Settling Moment = "flight.settling" // a transaction has no outcome; the question for it is not sent
	Settled  Moment = "flight.settled"  // the question is answered; its askers know nothing
)

// A Flight is a kind of transaction of a node. Two moments lie around each.
type Flight string

// The kinds.
const (
	Attach   Flight = "attach"
	Detach   Flight = "detach"
	Claim    Flight = "claim"
	GiveBack Flight = "giveback"
	AskAck   Flight = "askack"
	PutWant  Flight = "want"
	DropWant Flight = "dropwant"
	Yield    Flight = "yield"
	Update   Flight = "update" // of the registration
	Create   Flight = "create" // of a network
	Mark     Flight = "mark"   // of a network's record, for its removal
	Empty    Flight = "empty"  // of a network that is removed
	Erase    Flight = "erase"  // of the emptied network

	Remove Flight = "remove" // another node's registration
	Evict  Flight = "evict"  // an endpoint of an absent node
	Heed   Flight = "heed"   // the note of an eviction
	Drain  Flight = "drain"  // the registration of a node

	Restore  Flight = "restore"  // a network, as it was
	Reclaim  Flight = "reclaim"  // slots that are used
	Reattach Flight = "reattach" // an endpoint that is served
	Reshape  Flight = "reshape"  // a block of which more stands than is held
	Discard  Flight = "discard"  // a network that had been removed
)

// Sending is the moment before a transaction of this kind is sent.
func (f Flight) Sending() Moment { return Moment(f + ".sending") }

// Answered is the moment after its answer, of which its askers know nothing.
func (f Flight) Answered() Moment { return Moment(f + ".answered") }
