"""Desired servers to Envoy resources, as plain values (xDS v3 in JSON form). Pure: the adapter writes them to files."""
