"""Logs and metrics: their set-up and helpers."""
