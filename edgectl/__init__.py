"""The edge controller: stands for the edge nodes towards Kubernetes."""
