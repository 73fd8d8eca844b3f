package overspan

// Plugged is what is plugged in at a node at one moment. It stays as it is, and two
// that are equal say the same; Changes of its maps tell two others apart.
type Plugged struct {
	Sandboxes   IDMap[SandboxID, *Sandbox]
	Attachments IDMap[EndpointID, *Attachment]
	InNetwork   IDMap[NetworkID, *AttachmentGroup] // the attachments by their network,
	InSandbox   IDMap[SandboxID, *AttachmentGroup] // and by their sandbox
}

// An AttachmentGroup is attachments that have something in common, oldest first. It
// is immutable; a nil one is empty.
type AttachmentGroup struct{ list []*Attachment }

// AttachmentGroupOf returns a group of attachments that come oldest first, in a list
// that nobody changes any more.
func AttachmentGroupOf(list []*Attachment) *AttachmentGroup { return &AttachmentGroup{list} }

// All returns the attachments; nobody changes the list.
func (g *AttachmentGroup) All() []*Attachment {
	if g == nil {
		return nil
	}
	return g.list
}
