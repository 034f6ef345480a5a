"""Where pulled content lives."""
