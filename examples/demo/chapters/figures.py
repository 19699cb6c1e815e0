"""What it costs."""

from __future__ import annotations

from examples.demo.telling import Chapter, Memory, check
from examples.demo.world import World

FIGURES = Chapter("In figures")


@FIGURES.step("what it costs")
def figures(world: World, memory: Memory) -> str:
    lines = [f"kubectl apply to Running: {memory.seconds_to_running:.1f} s"]
    for name, (rss, pss) in memory.megabytes.items():
        lines.append(f"{name}: RSS {rss:.0f} MB (PSS {pss:.0f} MB)" + ("" if name == "router" else " with one pod"))
    return "\n".join(lines)


@FIGURES.step("`kubebus status`")
def status(world: World, memory: Memory) -> str:
    told = world.kubebus("status")
    for edge in world.edges:
        check(edge.name in told, f"{edge.name} in the status", told)
    return told
