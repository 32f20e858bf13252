"""What a guest's driver sees: registers, rings, DMA, interrupts."""
