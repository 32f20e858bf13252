"""SCSI: what a target device understands, whatever wire carried the command."""
