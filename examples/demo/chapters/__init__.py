"""The chapters of the story, in modules of their own. :mod:`examples.demo.story` has their order."""
