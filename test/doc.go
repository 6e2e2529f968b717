// Package test holds the product to its promises as its users meet it: the real
// command, the real kernel, real NATS servers.
//
// The test binary runs in a user and network namespace of its own. Every server
// and bridge that a test starts runs there too, and ends with it. What a machine
// does not have is said by a skipped test, or is a failure when
// IFACE_TEST_REQUIRE (netns, ip) says that it must be there.
package test
