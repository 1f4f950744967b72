"""Charts (bar, grouped and stacked bars, line, pie), drawn with matplotlib.

In: the data of a scene and its seed (render.paint). Out: a Pillow image and its cells. May import teacher/scenes.
"""
