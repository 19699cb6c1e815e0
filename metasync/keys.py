"""Where things stand in the metadata store. The one place that spells a key.

::

    /kubebus/<network>/nodes/<node>/desired/pods/<namespace>/<name>         v1 Pod (JSON)
    /kubebus/<network>/nodes/<node>/desired/configmaps/<namespace>/<name>   v1 ConfigMap
    /kubebus/<network>/nodes/<node>/desired/secrets/<namespace>/<name>      v1 Secret
    /kubebus/<network>/nodes/<node>/desired/services/<namespace>/<name>     v1 Service
    /kubebus/<network>/nodes/<node>/desired/endpointslices/<namespace>/<name>  discovery.k8s.io/v1 EndpointSlice
    /kubebus/<network>/nodes/<node>/desired/nodes/<node>                    v1 Node: its own, with topology labels
    /kubebus/<network>/nodes/<node>/reported/node                           NodeReport
    /kubebus/<network>/nodes/<node>/reported/pods/<namespace>/<name>/<uid>  PodReport
    /kubebus/<network>/nodes/<node>/reported/events/<namespace>/<name>      v1 Event
    /kubebus/<network>/sites/<site>/desired/<plural>/<namespace>/<name>     as the owner has it: pods to be taken over
    /kubebus/<network>/data/<scope>/...                                     application data
    /kubebus/<network>/registry/...                                         the router's registry
    /kubebus/<network>/api/...                                              objects of the embedded control plane
    /kubebus/<network>/sync/...                                             how far the sync has come

``desired`` is written by the cloud only, ``reported`` by that edge node only. A site's ``desired`` is read by all
members of the site: it has only the Pods that opt in to takeover (:data:`TAKEOVER`), with what they use.

Reported values:

* ``NodeReport``: ``{"status": <v1 NodeStatus>}``.
* ``PodReport``: ``{"metadata": {"name", "namespace", "uid"}, "status": <v1 PodStatus>, "gone": bool}``. ``gone``
  turns true once a pod that was deleted, replaced or never to be run here has no container left on the node. The
  node deletes the record when ``desired`` no longer has that UID. A pod that the node has taken over from another
  runs under a UID of its own, and has ``"takenOver": {"uid": <the original's>, "node": <its owner>}`` beside.
"""

from __future__ import annotations

from dataclasses import dataclass

ROOT = "/kubebus"

TAKEOVER = "kubebus.io/takeover"
"""Annotation of a Pod. The value ``site`` opts in: when its node dies, another node of the site runs it."""
TAKEOVER_SITE = "site"

TAKEN_OVER_UID = "kubebus.io/taken-over-uid"
TAKEN_OVER_FROM = "kubebus.io/taken-over-from"
"""Annotations of the Pod as its taker runs it: the original's UID, and the node that it is bound to."""

TAKEN_OVER_BY = "kubebus.io/taken-over-by"
TAKEN_OVER_AS = "kubebus.io/taken-over-as"
"""Annotations of the original in Kubernetes, while it is taken over: the node that runs it, and the copy's UID."""

WAITING_FOR_SITE = "WaitingForSite"
"""In a PodReport, why the containers of a pod wait that its node may not run now: another one may."""


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The keys of one node of one network."""

    network: str
    node: str

    @property
    def prefix(self) -> str:
        return f"{network_prefix(self.network)}nodes/{self.node}/"

    @property
    def desired(self) -> str:
        return f"{self.prefix}desired/"

    @property
    def reported(self) -> str:
        return f"{self.prefix}reported/"

    def desired_object(self, plural: str, namespace: str, name: str) -> bytes:
        """``plural`` is the Kubernetes resource: ``pods``, ``configmaps``, ``secrets``."""
        return f"{self.desired}{plural}/{namespace}/{name}".encode()

    @property
    def reported_node(self) -> bytes:
        return f"{self.reported}node".encode()

    def reported_pod(self, namespace: str, name: str, uid: str) -> bytes:
        return f"{self.reported}pods/{namespace}/{name}/{uid}".encode()


@dataclass(frozen=True, slots=True)
class SiteKeys:
    """The keys of one site of one network that its members read in common. Written by the cloud only."""

    network: str
    site: str

    @property
    def prefix(self) -> str:
        return f"{sites_prefix(self.network)}{self.site}/"

    @property
    def desired(self) -> str:
        return f"{self.prefix}desired/"

    def desired_object(self, plural: str, namespace: str, name: str) -> bytes:
        """``plural`` is ``pods``, ``configmaps`` or ``secrets``. A Pod has its owner's ``spec.nodeName``."""
        return f"{self.desired}{plural}/{namespace}/{name}".encode()

    def takeover(self, uid: str) -> bytes:
        """Application data of the site, reserved: who runs the pod of that original UID at present."""
        return f"{data_prefix(self.network)}site.{self.site}/kubebus.io/takeovers/{uid}".encode()


def network_prefix(network: str) -> str:
    return f"{ROOT}/{network}/"


def registry_prefix(network: str) -> str:
    return f"{network_prefix(network)}registry/"


def api_prefix(network: str) -> str:
    return f"{network_prefix(network)}api/"


def data_prefix(network: str) -> str:
    return f"{network_prefix(network)}data/"


def sync_prefix(network: str) -> str:
    """Belongs to the sync: its cursors and the marks of its history. It is never mirrored."""
    return f"{network_prefix(network)}sync/"


def cursors_prefix(network: str) -> str:
    return f"{sync_prefix(network)}cursors/"


def cursor_key(network: str, node: str, feed: str) -> bytes:
    """Where the target of a node's feed keeps its cursor."""
    return f"{cursors_prefix(network)}{node}/{feed}".encode()


def nodes_prefix(network: str) -> str:
    return f"{network_prefix(network)}nodes/"


def sites_prefix(network: str) -> str:
    return f"{network_prefix(network)}sites/"


def site_of(network: str, key: bytes) -> str | None:
    """The site under whose prefix ``key`` stands, or ``None`` for a key of no site of this network."""
    return _first_segment(sites_prefix(network).encode(), key)


def node_of(network: str, key: bytes) -> str | None:
    """The node under whose prefix ``key`` stands, or ``None`` for a key of no node of this network."""
    return _first_segment(nodes_prefix(network).encode(), key)


def _first_segment(prefix: bytes, key: bytes) -> str | None:
    if not key.startswith(prefix):
        return None
    name, slash, _ = key[len(prefix) :].partition(b"/")
    return name.decode("ascii", "replace") if slash and name else None
