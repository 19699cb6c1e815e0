"""The embedded control plane: the part of the Kubernetes API that edge operation needs, on a metadata store.

It is for trials and small sites (see ``docs/standalone.md``). Enter by
:class:`edgectl.apiserver.service.EmbeddedControlPlane`.
"""
