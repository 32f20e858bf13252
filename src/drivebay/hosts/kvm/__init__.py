"""A board's CPUs on /dev/kvm: ioctls and a shared page, nothing compiled (docs/kvm.md)."""
