"""Where sectors are kept."""
