package event

import "ifacebridge/schema"

// Names are what the links that a link refers to were called at the time of a
// change: its lower link, its master, and those in its kind's settings.
type Names struct {
	Lower, Master       string
	InfoData, SlaveData string // the settings with the names in them
}

// Put puts the names into l.
func (n *Names) Put(l *schema.Link) {
	l.LowerName, l.MasterName, l.Info.Data, l.Info.SlaveData = n.Lower, n.Master, n.InfoData, n.SlaveData
}

// ChangedKeys returns the keys of a link that refer to other links, of which the names are
// not what they were.
func (n *Names) ChangedKeys(before *Names) (keys schema.FieldSet) {
	if n.Lower != before.Lower {
		keys |= lowerIndexField
	}
	if n.Master != before.Master {
		keys |= masterIndexField
	}
	if n.InfoData != before.InfoData || n.SlaveData != before.SlaveData {
		keys |= linkInfoField
	}
	return keys
}

// The keys that stand for the names of other links, and those names.
var (
	lowerIndexField  = mustFields("link_index")
	masterIndexField = mustFields("master_index")
	linkInfoField    = mustFields("linkinfo")

	lowerNameField  = mustFields("link")
	masterNameField = mustFields("master")
)

// mustFields is schema.Fields for names that are constants.
func mustFields(names ...string) schema.FieldSet {
	set, err := schema.Fields(names...)
	if err != nil {
		panic(err)
	}
	return set
}
