package event

import "ifacebridge/schema"

// A Delta is a change as it leaves the queue: it says what is different from what
// consumers know of the link. Its memory is used again for the next one.
type Delta struct {
	About

	// Form is what consumers know of the link. The encoder, which is done with one delta
	// before it begins the next, makes it what they know afterwards.
	Form *schema.Form

	// The change is either these keys and their values, or, when Link is not nil, all of
	// it; then Before, if it is not nil either, stands for the form.
	Keys         schema.FieldSet
	Values       []byte // as schema.Link.AppendValues has them
	Link, Before *LinkState
}

// A LinkState is a link with the names of the links that it refers to.
type LinkState struct {
	*schema.Link
	Names
}

// Clone returns l with a link of its own.
func (l LinkState) Clone() LinkState {
	link := *l.Link
	return LinkState{&link, l.Names}
}
