"""Runs episodes: a model, served behind the common API, solves tasks in their worlds.

In: tasks, their pack, a client and `agent_loop.Settings`. Out: Trace rows with an outcome. agent_loop.py runs one
episode, guidance.py helps weak teachers, scheduler.py runs many episodes, blind_baseline.py repeats them without
images.
May import teacher.domain, teacher.inference, teacher.dialects, teacher.scenes and schemas.
"""
