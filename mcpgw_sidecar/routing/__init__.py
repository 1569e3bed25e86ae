"""Decides which server a message belongs to, and rewrites its key. Pure; one module per era."""
