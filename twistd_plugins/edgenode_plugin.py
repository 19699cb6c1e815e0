# mypy: disallow-untyped-calls=False
"""``twistd edgenode``: the device side. The code is loaded only when the plugin is chosen."""

from twisted.application.service import ServiceMaker

edgenode = ServiceMaker(
    "KubeBus edge node",
    "appengine.tap",
    "The device side of KubeBus: joins the network, mirrors the metadata, runs the pods - with or without the cloud.",
    "edgenode",
)
