"""What is applied to a cluster, as values: the sidecar in a pod, rights, gateways, the webhook. Pure; the CRDs are files in k8s/crds."""
