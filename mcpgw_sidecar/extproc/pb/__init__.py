"""Envoy's external processing messages, generated from ext_proc.proto by `just proto`."""
