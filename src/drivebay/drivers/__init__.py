"""Small guest-side drivers: each works its controller through registers and rings only."""
