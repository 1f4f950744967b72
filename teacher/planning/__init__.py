"""Plans a run before anything starts: whether the teacher fits on a machine, and what the run takes in time and money.

`hardware` describes machines, `memory` decides what fits, `cost` measures prompts and estimates tokens and time, `plan`
puts them together. Comes in: tasks, a domain pack, descriptions of teacher and student, the recipe, the hardware. Goes
out: the content of plan.json. May import teacher.domain, teacher.inference (the serve command) and what lies below.
"""
