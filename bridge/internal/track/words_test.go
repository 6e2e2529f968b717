package track

import "ifacebridge/bridge/internal/linktest"

// What these tests say most, in short.
var (
	link       = linktest.Link
	newMsg     = linktest.New
	delMsg     = linktest.Del
	partialMsg = linktest.Partial
	portMsg    = linktest.OfPort

	mtu       = linktest.MTU
	alias     = linktest.Alias
	master    = linktest.Master
	kind      = linktest.Kind
	hardware  = linktest.Type
	ups       = linktest.CarrierUps
	reason    = linktest.Reason
	functions = linktest.Functions
	port      = linktest.Port
	bond      = linktest.Bond
	slave     = linktest.Slave
	movedTo   = linktest.MovedTo

	including = linktest.Including
	excluding = linktest.Excluding

	describe = linktest.Describe
	expect   = linktest.Expect
)
