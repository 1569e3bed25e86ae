"""The Kubernetes manifests, as values: the sidecar in a pod, rights, gateways, the webhook.

Pure. The CRDs are files in k8s/crds.
"""
