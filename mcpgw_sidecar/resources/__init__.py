"""Kubernetes resources as values, the servers that they resolve to, and the status that they get.

Pure: `kube` is the adapter.
"""
