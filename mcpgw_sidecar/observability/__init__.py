"""Logs and metrics: set-up and helpers, without knowledge of what is logged or counted."""
