"""ATA: what a drive understands, whatever wire carried the command."""
