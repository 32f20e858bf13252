"""A guest in this process: someone else's emulator, a test of a driver, or unicorn as the CPU."""
