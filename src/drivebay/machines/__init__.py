"""Machines: where each controller sits. They know nothing of who runs the guest."""
