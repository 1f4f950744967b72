"""The public face of drawn images: what packs import."""

from teacher.scenes.scene import Cell, Picture, Scene, SceneError, check, draw

__all__ = ["Cell", "Picture", "Scene", "SceneError", "check", "draw"]
