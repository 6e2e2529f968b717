// Package vm has the tests that need other kernels than the machine's: Debian's, booted with
// qemu, emulated where there is no KVM. TestKernels fetches them and boots each with this very
// test binary, which runs the tests called TestGuest… there.
//
// TestMachine boots one that does what is asked of it over NATS (TestDriven), to stop it, set
// its clock, put it back to what it was, and clone it.
package vm
