"""A campus under surveillance: cameras on one LAN with three edge nodes, detectors at the edge and in the cloud."""
