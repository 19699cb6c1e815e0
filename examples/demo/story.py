"""The story in its order. Steps depend on those before them. The demo plays them; each is an integration test too."""

from __future__ import annotations

from examples.demo.chapters import figures, joining, metadata, outage, pods, workloads

CHAPTERS = (
    joining.CLOUD,
    joining.DEVICES,
    pods.POD,
    workloads.WORKLOADS,
    metadata.METADATA,
    metadata.CUT,
    outage.OUTAGE,
    outage.RETURN,
    figures.FIGURES,
)

STEPS = [step for chapter in CHAPTERS for step in chapter.steps]
