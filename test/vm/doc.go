// Package vm has the tests that need other kernels than the machine's: Debian's, booted with
// qemu, emulated where there is no KVM. TestKernels fetches them and boots each with this very
// test binary, which runs the tests called TestGuest… there.
package vm
