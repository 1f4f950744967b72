"""Application screens (form, table, dialog, code editor), drawn with Pillow.

In: the data of a scene and its seed (render.paint). Out: a Pillow image and its cells. May import teacher/scenes.
"""
