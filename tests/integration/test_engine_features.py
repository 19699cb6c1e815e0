"""Each field of a pod, seen in the real container."""

from __future__ import annotations

import os
from base64 import b64encode

from tests.integration.engine_world import SLEEP, EngineTestCase, Json, pod_manifest
from tests.lab.engine import BUSYBOX


def container(name: str, *command: str, **fields: object) -> Json:
    return {"name": name, "image": BUSYBOX, "command": list(command) or SLEEP, **fields}


def read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


class FeatureTests(EngineTestCase):
    async def start(self, pod: Json) -> Json:
        await self.apply(pod)
        return await self.running(pod)

    async def lines(self, pod: Json, *command: str, name: str = "main") -> list[str]:
        return (await self.run_in(pod, *command, name=name)).splitlines()

    async def ended(self, pod: Json, name: str = "main") -> Json:
        """How a container ended, now or before its present run."""

        async def over() -> Json | None:
            for status in (await self.status(pod)).get("containerStatuses") or ():
                if status["name"] == name:
                    return status["state"].get("terminated") or status["lastState"].get("terminated") or None
            return None

        found: Json = await self.until(over, f"{name} has ended")
        return found

    # -- volumes --------------------------------------------------------------------------------------------------

    async def test_empty_dir_is_shared_and_memory_is_limited(self) -> None:
        mounts = [{"name": "disk", "mountPath": "/disk"}, {"name": "ram", "mountPath": "/ram"}]
        pod = pod_manifest("both", volumeMounts=mounts)
        pod["spec"]["containers"].append(container("other", volumeMounts=mounts))
        pod["spec"]["volumes"] = [
            {"name": "disk", "emptyDir": {}},
            {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ]
        await self.start(pod)
        await self.run_in(pod, "sh", "-c", "echo hello > /disk/a; echo ram > /ram/a")
        self.assertEqual(await self.lines(pod, "cat", "/disk/a", "/ram/a", name="other"), ["hello", "ram"])
        self.assertIn("tmpfs", await self.run_in(pod, "grep", " /ram ", "/proc/mounts"))
        full = await self.run_in(pod, "sh", "-c", "dd if=/dev/zero of=/ram/b bs=1k count=2000 2>&1")
        self.assertIn("No space left", full)

    async def test_empty_dir_over_its_limit_evicts(self) -> None:
        pod = pod_manifest(
            "hog",
            command=["sh", "-c", "dd if=/dev/zero of=/d/x bs=1k count=3000; sleep 3600"],
            volumeMounts=[{"name": "d", "mountPath": "/d"}],
            spec={"volumes": [{"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}]},
        )
        await self.start(pod)
        assert self.engine is not None
        housekeeper = self.engine._housekeeper
        identity = (await self.container(pod))["Id"]

        async def written() -> bool:
            return "3000+0" in await self.ask(lambda c: c.containers.get(identity).logs().decode())

        await self.until(written, "the volume is full")
        await housekeeper._check_sizes()
        status = await self.phase(pod, "Failed")
        self.assertEqual(status["reason"], "Evicted")
        self.assertIn('volume "d"', status["message"])

    async def test_host_path_types(self) -> None:
        base = self.directory / "host"
        base.mkdir()
        (base / "file").write_text("from the host")
        volumes = [
            {"name": "made", "hostPath": {"path": f"{base}/new/dir", "type": "DirectoryOrCreate"}},
            {"name": "file", "hostPath": {"path": f"{base}/file", "type": "File"}},
        ]
        mounts = [{"name": "made", "mountPath": "/made"}, {"name": "file", "mountPath": "/file", "readOnly": True}]
        pod = pod_manifest("host", volumeMounts=mounts, spec={"volumes": volumes})
        await self.start(pod)
        self.assertEqual(await self.run_in(pod, "cat", "/file"), "from the host")
        await self.run_in(pod, "touch", "/made/here")
        self.assertTrue((base / "new/dir/here").exists())
        self.assertIn("Read-only", await self.run_in(pod, "sh", "-c", "echo x > /file"))
        wrong = pod_manifest(
            "wrong",
            volumeMounts=[{"name": "v", "mountPath": "/v"}],
            spec={"volumes": [{"name": "v", "hostPath": {"path": f"{base}/file", "type": "Directory"}}]},
        )
        await self.apply(wrong)

        async def told() -> str:
            states = (await self.status(wrong)).get("containerStatuses") or [{}]
            return str(states[0].get("state", {}).get("waiting", {}).get("message") or "")

        self.assertIn("is not a Directory", await self.until(told, "the status says what is wrong"))

    async def test_projected_and_downward_volumes(self) -> None:
        await self.put("configmaps", {"metadata": {"name": "c"}, "data": {"k": "config"}})
        await self.put("secrets", {"metadata": {"name": "s"}, "data": {"k": b64encode(b"secret").decode()}})
        sources = [
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "deep/config", "mode": 0o440}]}},
            {"secret": {"name": "s", "items": [{"key": "k", "path": "secret"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]
        downward = {
            "items": [
                {
                    "path": "memory",
                    "resourceFieldRef": {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"},
                }
            ]
        }
        pod = pod_manifest(
            "files",
            volumeMounts=[{"name": "all", "mountPath": "/all"}, {"name": "down", "mountPath": "/down"}],
            resources={"limits": {"memory": "64Mi"}},
            spec={
                "volumes": [
                    {"name": "all", "projected": {"sources": sources}},
                    {"name": "down", "downwardAPI": downward},
                ]
            },
        )
        await self.start(pod)
        text = await self.run_in(
            pod, "sh", "-c", "cat /all/deep/config /all/secret /all/labels; echo; cat /down/memory"
        )
        self.assertEqual(text, 'configsecretapp="files"\n64')
        self.assertEqual(await self.lines(pod, "stat", "-L", "-c", "%a", "/all/deep/config"), ["440"])

    async def test_sub_path_stays_in_its_volume(self) -> None:
        base = self.directory / "host"
        base.mkdir()
        (base / "out").symlink_to("/etc")
        await self.put("configmaps", {"metadata": {"name": "c"}, "data": {"one": "1", "two": "2"}})
        volumes = [{"name": "h", "hostPath": {"path": str(base)}}, {"name": "c", "configMap": {"name": "c"}}]
        pod = pod_manifest(
            "sub",
            env=[{"name": "WHO", "value": "me"}],
            volumeMounts=[
                {"name": "h", "mountPath": "/h", "subPathExpr": "logs/$(WHO)"},
                {"name": "c", "mountPath": "/etc/one", "subPath": "one"},
            ],
            spec={"volumes": volumes},
        )
        await self.start(pod)
        await self.run_in(pod, "touch", "/h/x")
        self.assertTrue((base / "logs/me/x").exists())
        self.assertEqual(await self.run_in(pod, "cat", "/etc/one"), "1")
        bad = pod_manifest(
            "bad", volumeMounts=[{"name": "h", "mountPath": "/h", "subPath": "out"}], spec={"volumes": volumes[:1]}
        )
        await self.apply(bad)

        async def told() -> str:
            states = (await self.status(bad)).get("containerStatuses") or [{}]
            return str(states[0].get("state", {}).get("waiting", {}).get("message") or "")

        self.assertIn("leads out of the volume", await self.until(told, "the status says what is wrong"))

    # -- security and resources -----------------------------------------------------------------------------------

    async def test_user_group_and_capabilities(self) -> None:
        pod = pod_manifest(
            "safe",
            securityContext={
                "runAsUser": 1000,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
            },
            volumeMounts=[{"name": "v", "mountPath": "/v"}],
            spec={
                "volumes": [{"name": "v", "emptyDir": {}}],
                "securityContext": {"runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000]},
            },
        )
        await self.start(pod)
        self.assertEqual(await self.lines(pod, "id"), ["uid=1000 gid=2000 groups=2000,3000,4000"])
        self.assertIn("Read-only", await self.run_in(pod, "touch", "/x"))
        self.assertEqual(await self.lines(pod, "sh", "-c", "touch /v/x && stat -c %g /v/x"), ["3000"])
        status = await self.run_in(pod, "grep", "-E", "CapBnd|NoNewPrivs", "/proc/1/status")
        self.assertIn("CapBnd:\t0000000000000400", status)
        self.assertIn("NoNewPrivs:\t1", status)

    async def test_non_root_policy_and_privileged(self) -> None:
        root = pod_manifest("root", securityContext={"runAsNonRoot": True})
        await self.apply(root)

        async def refused() -> Json | None:
            states = (await self.status(root)).get("containerStatuses") or [{}]
            return (
                states[0].get("state", {}).get("waiting")
                if states[0].get("state", {}).get("waiting", {}).get("message")
                else None
            )

        waiting = await self.until(refused, "the container is refused")
        self.assertEqual(waiting["reason"], "CreateContainerConfigError")
        self.assertIn("runAsNonRoot", waiting["message"])
        mighty = pod_manifest("mighty", securityContext={"privileged": True})
        await self.apply(mighty)

        async def made() -> list[Json]:
            return await self.containers(mighty, "main")

        # It is made so; not every machine lets it start.
        self.assertTrue((await self.until(made, "the container is made"))[0]["HostConfig"]["Privileged"])

    async def test_resources_are_cgroup_settings(self) -> None:
        pod = pod_manifest(
            "bound", resources={"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}
        )
        await self.start(pod)
        host = (await self.container(pod))["HostConfig"]
        self.assertEqual((host["Memory"], host["MemorySwap"]), (64 * 2**20, 64 * 2**20))
        pid = (await self.container(pod))["State"]["Pid"]
        groups = {}
        for line in read(f"/proc/{pid}/cgroup").splitlines():
            _, names, path = line.split(":")
            groups.update(dict.fromkeys(names.split(","), path))

        def setting(kind: str, name: str) -> str:
            return read(f"/sys/fs/cgroup/{kind}{groups[kind]}/{name}")

        if "memory" in groups:
            self.assertEqual(setting("memory", "memory.limit_in_bytes"), str(64 * 2**20))
            self.assertEqual(setting("cpu", "cpu.cfs_quota_us"), "50000")
            self.assertEqual(setting("cpu", "cpu.shares"), "256")
        self.assertGreater(int(read(f"/proc/{pid}/oom_score_adj")), 0)
        self.assertEqual((await self.status(pod))["qosClass"], "Burstable")

    async def test_out_of_memory_is_told(self) -> None:
        eat = "x=a; while true; do x=$x$x$x$x; done"
        pod = pod_manifest(
            "eater",
            command=["sh", "-c", eat],
            resources={"limits": {"memory": "16Mi"}},
            spec={"restartPolicy": "Never"},
        )
        await self.apply(pod)
        ended = await self.ended(pod)
        self.assertEqual((ended["reason"], ended["exitCode"]), ("OOMKilled", 137))
        self.assertEqual((await self.phase(pod, "Failed"))["qosClass"], "Burstable")

    # -- names ----------------------------------------------------------------------------------------------------

    async def test_hostname_hosts_and_dns(self) -> None:
        pod = pod_manifest(
            "named",
            spec={
                "hostname": "me",
                "subdomain": "sub",
                "hostAliases": [{"ip": "10.9.8.7", "hostnames": ["alias"]}],
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["10.1.2.3"],
                    "searches": ["x.example"],
                    "options": [{"name": "ndots", "value": "3"}],
                },
                "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]},
            },
        )
        status = await self.start(pod)
        self.assertEqual(await self.lines(pod, "hostname"), ["me"])
        hosts = await self.run_in(pod, "cat", "/etc/hosts")
        self.assertIn(f"{status['podIP']}\tme.sub.default.svc.cluster.local\tme\n", hosts)
        self.assertIn("10.9.8.7\talias\n", hosts)
        resolv = await self.run_in(pod, "cat", "/etc/resolv.conf")
        self.assertEqual(resolv, "nameserver 10.1.2.3\nsearch x.example\noptions ndots:3\n")
        self.assertEqual(await self.lines(pod, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"), ["80"])

    async def test_shared_process_namespace(self) -> None:
        pod = pod_manifest("shared", spec={"shareProcessNamespace": True})
        pod["spec"]["containers"].append(container("other", "sleep", "1234567"))
        await self.start(pod)
        self.assertIn("sleep 1234567", await self.run_in(pod, "ps"))
        self.assertIn("/pause", (await self.lines(pod, "ps"))[1])

    async def test_environment(self) -> None:
        await self.put("secrets", {"metadata": {"name": "s"}, "data": {"PASS": b64encode(b"word").decode()}})
        pod = pod_manifest(
            "env",
            envFrom=[
                {"prefix": "S_", "secretRef": {"name": "s"}},
                {"configMapRef": {"name": "none", "optional": True}},
            ],
            env=[
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            ],
            resources={"limits": {"cpu": "250m"}},
            workingDir="/tmp",
        )
        await self.start(pod)
        text = await self.run_in(pod, "sh", "-c", "echo $S_PASS $NODE $LABEL $CPU $PWD")
        self.assertEqual(text, "word edge-1 env 250 /tmp\n")

    # -- the order of things --------------------------------------------------------------------------------------

    async def test_init_containers_sidecars_and_hooks(self) -> None:
        mounts = [{"name": "log", "mountPath": "/log"}]

        def say(word: str, then: str = "") -> list[str]:
            return ["sh", "-c", f"echo {word} >> /log/all; {then}"]

        stop = "trap 'echo {0} stops >> /log/all; exit 0' TERM; sleep 3600 & wait"
        pod = pod_manifest(
            "ordered",
            command=say("main", stop.format("main")),
            volumeMounts=mounts,
            lifecycle={
                "postStart": {"exec": {"command": say("started")}},
                "preStop": {"exec": {"command": say("stopping")}},
            },
            spec={
                "terminationGracePeriodSeconds": 20,
                "volumes": [
                    {"name": "log", "hostPath": {"path": str(self.directory / "log"), "type": "DirectoryOrCreate"}}
                ],
                "initContainers": [
                    container("first", *say("first", "sleep 0.5; echo first ends >> /log/all"), volumeMounts=mounts),
                    container("side", *say("side", stop.format("side")), volumeMounts=mounts, restartPolicy="Always"),
                    container("second", *say("second"), volumeMounts=mounts),
                ],
            },
        )
        await self.start(pod)
        log = self.directory / "log" / "all"

        async def begun() -> bool:
            return "started" in log.read_text() and "main" in log.read_text()

        await self.until(begun, "all have said their word")
        words = log.read_text().splitlines()
        self.assertEqual(words[:2], ["first", "first ends"])
        self.assertEqual(sorted(words[2:4]), ["second", "side"])
        self.assertEqual(sorted(words[4:]), ["main", "started"])
        await self.delete("ordered")

        async def gone() -> bool:
            return await self.report(pod) is None

        await self.until(gone, "the pod is gone")
        self.assertEqual(log.read_text().splitlines()[6:], ["stopping", "main stops", "side stops"])

    async def test_termination_message_and_exit_code(self) -> None:
        pod = pod_manifest(
            "last",
            command=["sh", "-c", "echo last words > /dev/termination-log; exit 42"],
            spec={"restartPolicy": "Never"},
        )
        await self.apply(pod)
        ended = await self.ended(pod)
        self.assertEqual((ended["exitCode"], ended["reason"], ended["message"]), (42, "Error", "last words"))
        logs = pod_manifest(
            "logs",
            command=["sh", "-c", "echo from the log; exit 1"],
            terminationMessagePolicy="FallbackToLogsOnError",
            spec={"restartPolicy": "Never"},
        )
        await self.apply(logs)
        self.assertEqual((await self.ended(logs))["message"], "from the log")

    async def test_command_that_does_not_exist(self) -> None:
        pod = pod_manifest("nothing", command=["/no/such/file"])
        await self.apply(pod)

        async def told() -> Json | None:
            states = (await self.status(pod)).get("containerStatuses") or [{}]
            waiting = states[0].get("state", {}).get("waiting") or {}
            return waiting if waiting.get("reason") == "RunContainerError" else None

        waiting = await self.until(told, "the status says what is wrong")
        self.assertIn("/no/such/file", waiting["message"])

    async def test_logs_are_bounded(self) -> None:
        pod = pod_manifest("web")
        await self.start(pod)
        log = (await self.container(pod))["HostConfig"]["LogConfig"]
        self.assertEqual((log["Type"], log["Config"]["max-file"]), ("json-file", "5"))
        self.assertEqual(log["Config"]["max-size"], str(10 * 2**20))

    async def test_image_that_cannot_be_pulled(self) -> None:
        pod = pod_manifest("absent", image="127.0.0.1:1/none:1")
        await self.apply(pod)

        async def reason(*wanted: str) -> Json | None:
            states = (await self.status(pod)).get("containerStatuses") or [{}]
            waiting = states[0].get("state", {}).get("waiting") or {}
            return waiting if waiting.get("reason") in wanted else None

        waiting = await self.until(lambda: reason("ErrImagePull", "ImagePullBackOff"), "the pull fails")
        self.assertIn("127.0.0.1:1", waiting["message"])
        waiting = await self.until(lambda: reason("ImagePullBackOff"), "the next pull waits")
        self.assertIn('Back-off pulling image "127.0.0.1:1/none:1"', waiting["message"])

    async def test_image_archive_on_the_device(self) -> None:
        folder = self.directory / "engine" / "images"
        folder.mkdir(parents=True, exist_ok=True)

        def save(client: object) -> None:
            api = client.api  # type: ignore[attr-defined]
            api.tag(BUSYBOX, "site.example/app", "7")
            with open(folder / ".app", "wb") as file:
                for chunk in api.get_image("site.example/app:7"):
                    file.write(chunk)
            api.remove_image("site.example/app:7")
            os.rename(folder / ".app", folder / "app.tar")

        await self.ask(save)
        await self.start(pod_manifest("local", image="site.example/app:7"))
        await self.ask(
            lambda c: [x.remove(force=True) for x in c.containers.list(filters={"ancestor": "site.example/app:7"})]
        )
