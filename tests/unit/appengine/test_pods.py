"""What pods may say: the table of fields, environments, hosts files, quantities, the pause program."""

from __future__ import annotations

import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from appengine.assemble import container_config
from appengine.environment import expand
from appengine.pauseimage import UnknownArchitecture, go_architecture, pause_layer, pause_program
from appengine.poddocs import page
from appengine.podfields import POD, SPEC
from appengine.podnet import ClusterDns, etc_hosts, resolv_conf
from appengine.podspec import InvalidPod, Pod, parse_pod
from appengine.qos import container_resources, qos_class
from appengine.quantity import bytes_of, millicpu_of, parse_quantity
from appengine.runtime import ImageView
from appengine.schema import Support, Type
from edgectl.translate import strip_pod
from tests.unit.appengine.world import Json, pod_manifest

ROOT = Path(__file__).parents[3]


def pod(spec: Json | None = None, **container: Any) -> Pod:
    return parse_pod(pod_manifest(spec=spec, **container), "default", "web")


def supported(type: Type) -> Any:
    """A value in which every supported field is set."""
    if type.fields is not None:
        fields = type.fields.items()
        return {name: supported(field.type) for name, field in fields if field.support is Support.SUPPORTED}
    if type.items is not None:
        return [supported(type.items)]
    return {"a": "b"} if type.values is not None else "x"


class FieldTests(unittest.SynchronousTestCase):
    def problems(self, spec: Json | None = None, **container: object) -> str:
        error = self.assertRaises(InvalidPod, lambda: pod(spec, **container))
        return str(error)

    def test_the_page_is_made_from_the_table(self) -> None:
        self.assertEqual((ROOT / "docs" / "pods.md").read_text(), page(), "run python -m appengine.poddocs")

    def test_what_is_wrong_is_named(self) -> None:
        for spec, field in (
            ({"hostname": 5}, "spec.hostname: must be a string, not int"),
            ({"restartPolicy": "Sometimes"}, "spec.restartPolicy: 'Sometimes' is not supported"),
            ({"volumes": [{"name": "v", "csi": {"driver": "x"}}]}, "spec.volumes[0].csi: not supported"),
            ({"containers": [{"name": "a", "image": "b", "x": 1}]}, "spec.containers[0].x: this node does not know"),
            ({"containers": []}, "spec.containers: at least one"),
            ({"initContainers": [{"name": "main", "image": "b"}]}, "'main' is there twice"),
        ):
            self.assertIn(field, self.problems(spec))
        self.assertIn("there is no volume 'v'", self.problems(volumeMounts=[{"name": "v", "mountPath": "/v"}]))
        self.assertIn(
            "subPath: leaves the volume",
            self.problems(
                {"volumes": [{"name": "v", "emptyDir": {}}]},
                volumeMounts=[{"name": "v", "mountPath": "/v", "subPath": "a/../../b"}],
            ),
        )

    def test_refused_fields_that_say_nothing_are_no_obstacle(self) -> None:
        self.assertEqual(pod({"readinessGates": [], "runtimeClassName": None}).ref.name, "web")

    def test_what_is_supported_reaches_the_node(self) -> None:
        whole = supported(POD)
        sent = strip_pod(whole)
        self.assertEqual(sent["metadata"], whole["metadata"])
        self.assertEqual(sent["spec"], whole["spec"])

    def test_what_is_refused_reaches_the_node_which_says_so(self) -> None:
        named = {name: "x" for name, field in (SPEC.fields or {}).items() if field.support is Support.REFUSED}
        sent = strip_pod({"metadata": {"name": "web"}, "spec": named})
        self.assertEqual(sent["spec"], named)

    def test_what_a_scheduler_reads_is_ignored(self) -> None:
        self.assertEqual(pod({"tolerations": [{"any": "thing"}], "affinity": 5}).ref.name, "web")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
        )
    )
    def test_anything_is_a_pod_or_an_invalid_pod(self, spec: object) -> None:
        try:
            parse_pod({"metadata": {"name": "web"}, "spec": spec}, "default", "web")
        except InvalidPod as error:
            self.assertLess(len(str(error)), 5000)


class EnvironmentTests(unittest.SynchronousTestCase):
    def test_expansion(self) -> None:
        # The cases of Kubernetes' own expansion tests.
        known = {"VAR_A": "A", "VAR_B": "B", "VAR_EMPTY": ""}
        for text, result in (
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)$(VAR_B)", "AB"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$(VAR_DNE)", "$(VAR_DNE)"),
            ("$VAR_A", "$VAR_A"),
            ("$(VAR_A", "$(VAR_A"),
            ("foo$(VAR_EMPTY)bar", "foobar"),
            ("$", "$"),
            ("$$", "$"),
            ("$?", "$?"),
        ):
            self.assertEqual(expand(text, known), result, text)

    def test_resolv_conf(self) -> None:
        host = "nameserver 127.0.0.53\nnameserver 9.9.9.9 # quad\nsearch lan\noptions edns0\n"
        none = ClusterDns()
        self.assertEqual(resolv_conf(pod(), host, none), "nameserver 9.9.9.9\nsearch lan\noptions edns0\n")
        cluster = resolv_conf(pod(), host, ClusterDns(("10.96.0.10",)))
        self.assertEqual(
            cluster,
            "nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local lan\n"
            "options ndots:5\n",
        )
        config = {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}
        self.assertEqual(
            resolv_conf(pod({"dnsPolicy": "None", "dnsConfig": config}), host, none),
            "nameserver 1.1.1.1\nsearch x\noptions ndots:2\n",
        )

    def test_hosts(self) -> None:
        spec = {"subdomain": "sub", "hostAliases": [{"ip": "10.1.1.1", "hostnames": ["a", "b"]}]}
        text = etc_hosts(pod(spec), ["10.192.7.3"])
        self.assertIn("10.192.7.3\tweb.sub.default.svc.cluster.local\tweb\n", text)
        self.assertIn("10.1.1.1\ta\tb\n", text)


class ResourceTests(unittest.SynchronousTestCase):
    def test_quantities(self) -> None:
        self.assertEqual(bytes_of("64Mi"), 64 * 2**20)
        self.assertEqual(bytes_of("1e3"), 1000)
        self.assertEqual(bytes_of("2E"), 2 * 10**18)
        self.assertEqual(millicpu_of("0.5"), 500)
        self.assertEqual(millicpu_of("100m"), 100)
        self.assertEqual(bytes_of("0.5"), 1)
        self.assertEqual(parse_quantity("-3Ki"), Decimal(-3072))
        for wrong in ("", "1x", "Mi", "1e999", "1 Mi", True, "9" * 99):
            self.assertRaises(ValueError, parse_quantity, wrong)

    def test_qos_and_cgroups(self) -> None:
        both = {"cpu": "500m", "memory": "64Mi"}
        for resources, quality, adjust in (
            ({}, "BestEffort", 1000),
            ({"limits": both}, "Guaranteed", -997),
            ({"requests": {"cpu": "500m", "memory": "512Mi"}}, "Burstable", 500),
        ):
            some = pod(resources=resources)
            self.assertEqual(qos_class(some), quality)
            self.assertEqual(container_resources(some, some.containers[0], 2**30).oom_score_adj, adjust)
        limited = pod(resources={"limits": both})
        made = container_resources(limited, limited.containers[0], 2**30)
        self.assertEqual(
            (made.memory, made.cpu_shares, made.cpu_quota, made.cpu_period), (64 * 2**20, 512, 50000, 100000)
        )

    def test_users(self) -> None:
        from appengine.environment import ConfigError

        image = ImageView("sha256:x", (), 1, user="app")

        def user(spec: Json | None = None, **context: object) -> str:
            some = pod(spec, securityContext=context)
            return container_config(
                some,
                some.containers[0],
                network="n",
                node="e",
                attempt=0,
                sandbox="s",
                image=image,
                variables={},
                mounts=(),
            ).security.user

        self.assertEqual(user(), "")
        self.assertEqual(user(runAsUser=5), "5")
        self.assertEqual(user({"securityContext": {"runAsUser": 5, "runAsGroup": 6}}), "5:6")
        self.assertEqual(user(runAsGroup=6), "app:6")
        self.assertRaises(ConfigError, user, runAsNonRoot=True)
        self.assertRaises(ConfigError, user, runAsNonRoot=True, runAsUser=0)
        self.assertEqual(user(runAsNonRoot=True, runAsUser=7), "7")


class PauseTests(unittest.SynchronousTestCase):
    def test_programs_are_elf_files_of_their_machine(self) -> None:
        for architecture, bits, order, machine in (
            ("amd64", 2, "<", 62),
            ("arm64", 2, "<", 183),
            ("arm", 1, "<", 40),
            ("mips", 1, ">", 8),
            ("mipsle", 1, "<", 8),
        ):
            program = pause_program(architecture)
            self.assertEqual(program[:5], b"\x7fELF" + bytes([bits]))
            kind, found = struct.unpack_from(order + "HH", program, 16)
            self.assertEqual((kind, found), (2, machine))
            self.assertLess(len(program), 512)

    def test_names_of_machines(self) -> None:
        self.assertEqual(
            [go_architecture(m) for m in ("x86_64", "aarch64", "armv7l", "mipsel")], ["amd64", "arm64", "arm", "mipsle"]
        )
        self.assertRaises(UnknownArchitecture, pause_program, "pdp11")

    def test_the_layer_is_the_same_every_time(self) -> None:
        self.assertEqual(pause_layer("amd64"), pause_layer("x86_64"))
