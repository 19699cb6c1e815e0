"""KubeBus: the network of an edge cluster: links, virtual router, identity and enrolment."""

__version__ = "0.1.0"
