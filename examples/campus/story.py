"""The story of the campus: its chapters in their order."""

from examples.campus.chapters.alone import ALONE
from examples.campus.chapters.beginning import CAMPUS
from examples.campus.chapters.compared import COMPARED
from examples.campus.chapters.death import DEATH
from examples.campus.chapters.work import WORK

CHAPTERS = (CAMPUS, WORK, ALONE, DEATH, COMPARED)
STEPS = [step for chapter in CHAPTERS for step in chapter.steps]
