"""Envoy's dynamic resources as files, and Envoy's verdict on them."""
