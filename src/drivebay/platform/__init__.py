"""What a controller stands on: guest memory, MMIO regions, interrupt lines, the engine."""
