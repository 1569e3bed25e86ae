"""The admin port: health, readiness, metrics and status."""
