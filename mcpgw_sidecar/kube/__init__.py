"""Kubernetes: the resources that servers are made of are watched, and told what became of them. `resources` is its pure half."""
