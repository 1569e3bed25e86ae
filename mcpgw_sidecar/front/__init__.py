"""The downstream side of the broker: HTTP, stateful methods, batches, streams and healing."""
