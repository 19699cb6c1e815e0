# mypy: disallow-untyped-calls=False
"""``twistd kubebus``: the cloud side. The code is loaded only when the plugin is chosen."""

from twisted.application.service import ServiceMaker

kubebus = ServiceMaker(
    "KubeBus cloud node",
    "kubebus.tap",
    "The cloud side of KubeBus: network router, metadata sync and edge controller, on the VM with the public IP.",
    "kubebus",
)
