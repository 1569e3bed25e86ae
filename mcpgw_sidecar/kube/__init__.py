"""Kubernetes: watches the resources that define servers, and writes their status.

`resources` is the pure half.
"""
