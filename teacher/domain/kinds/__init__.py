"""Kinds of tasks that every pack has, because they are derived from the tasks of its templates.

    irrelevant  no tool that is offered can do what is asked; the model says so (irrelevant.py)
    missing     the request lacks a fact that the solution needs; the model asks for it (missing.py)
    policy      the pack's policy.md applies: what it forbids is refused, the rest is done (policy.py)
    recovery    a tool fails once; the model calls it again (recovery.py)
    dialogue    the request lacks facts, and a simulated user tells them when asked (dialogue.py)

`derive.derive_kinds` turns a share of sampled tasks into these. Whether the goal of a task is out of reach is found by
running calls (reach.py), not by judging words.
"""
