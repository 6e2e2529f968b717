package queue_test

import "ifacebridge/bridge/internal/linktest"

// What these tests say most, in short.
var (
	link       = linktest.Link
	newMsg     = linktest.New
	delMsg     = linktest.Del
	partialMsg = linktest.Partial

	mtu    = linktest.MTU
	alias  = linktest.Alias
	master = linktest.Master

	excluding = linktest.Excluding

	describeEvent = linktest.DescribeEvent
	expect        = linktest.Expect
)
