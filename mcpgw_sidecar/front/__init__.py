"""The clients' side of the broker: HTTP, the methods of the stateful era, batches, streams, healing."""
