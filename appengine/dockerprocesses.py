"""Processes in containers of a Docker Engine: executed, attached to, and what they have written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred

from appengine.dockerconnection import DockerConnection
from appengine.dockersession import DockerSession, OutputBody
from appengine.dockerstream import Demultiplexer
from appengine.runtime import (
    ContainerView,
    ExecResult,
    LogOptions,
    Output,
    Session,
)

_MAX_EXEC_OUTPUT = 10 * 1024


class DockerProcesses(DockerConnection):
    """The part of :class:`appengine.runtime.Runtime` that is about processes."""

    async def execute(self, container_id: str, command: Sequence[str], seconds: float) -> ExecResult:
        output = bytearray()
        done: Deferred[Exception | None] = Deferred()

        def received(stream: int, data: bytes) -> None:
            output.extend(data[: _MAX_EXEC_OUTPUT - len(output)])

        split = Demultiplexer(received)

        class Reader:
            def data(self, data: bytes) -> None:
                split.feed(data)

            def ended(self, error: Exception | None) -> None:
                if not done.called:
                    done.callback(error)

        identity = await self._exec(container_id, command)
        stream = await self.endpoint.open(
            "POST",
            f"/exec/{quote(identity)}/start",
            Reader(),
            content={"Detach": False, "Tty": False},
            upgrade=True,
        )
        if not await self._wait_for(done, seconds):
            stream.close()
            raise TimeoutError(f"command {command[0]!r} timed out after {seconds:g}s")
        inspected = await self._exec_inspect(identity)
        return ExecResult(int(inspected.get("ExitCode") or 0), bytes(output))

    async def _exec(self, container_id: str, command: Sequence[str], **options: bool) -> str:
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": [*command], **options}
        return str((await self._call("POST", f"/containers/{quote(container_id)}/exec", content=body))["Id"])

    async def _exec_inspect(self, identity: str) -> Any:
        return await self._call("GET", f"/exec/{quote(identity)}/json")

    async def exec_session(
        self, container_id: str, command: Sequence[str], tty: bool, stdin: bool, output: Output
    ) -> Session:
        identity = await self._exec(container_id, command, AttachStdin=stdin, AttachStderr=not tty, Tty=tty)

        async def exit_code() -> int | None:
            code: int | None = (await self._exec_inspect(identity)).get("ExitCode")
            return code

        session = DockerSession(
            lambda width, height: self._call("POST", f"/exec/{quote(identity)}/resize", {"h": height, "w": width}),
            exit_code,
        )
        content = {"Detach": False, "Tty": tty}
        await self._converse(session, "POST", f"/exec/{quote(identity)}/start", output, tty, content)
        return session

    async def attach_session(self, view: ContainerView, stdin: bool, output: Output) -> Session:
        session = DockerSession(
            lambda width, height: self._call("POST", f"/containers/{view.id}/resize", {"h": height, "w": width}), None
        )
        query = urlencode({"stream": 1, "stdin": int(stdin), "stdout": 1, "stderr": 1})
        await self._converse(session, "POST", f"/containers/{view.id}/attach?{query}", output, view.tty, None)
        return session

    async def log_session(self, view: ContainerView, options: LogOptions, output: Output) -> Session:
        session = DockerSession(None, None)
        query = urlencode(
            {
                "stdout": 1,
                "stderr": 1,
                "follow": int(options.follow),
                "timestamps": int(options.timestamps),
                "tail": "all" if options.tail is None else options.tail,
                "since": f"{options.since:.9f}" if options.since else 0,
            }
        )
        body = OutputBody(output, view.tty)
        session.stream = await self.endpoint.open("GET", f"/containers/{view.id}/logs?{query}", body)
        return session

    async def _converse(
        self, session: DockerSession, method: str, path: str, output: Output, tty: bool, content: Any
    ) -> None:
        body = OutputBody(output, tty)
        session.stream = await self.endpoint.open(method, path, body, content=content, upgrade=True)
