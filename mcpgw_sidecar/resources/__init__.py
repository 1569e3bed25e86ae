"""Kubernetes resources as values, what they resolve to, and what is said of them in return. Pure: `kube` is the adapter."""
