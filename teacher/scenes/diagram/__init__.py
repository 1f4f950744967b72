"""Diagrams of nodes and arrows (flow, organisation, dependency, sequence), laid out with graphlay.

In: the data of a scene and its seed (render.paint). Out: a Pillow image and its cells. May import teacher/scenes.
"""
