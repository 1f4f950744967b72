"""Makes traces: a served model solves generated tasks in the world of a domain pack.

Rooms, from top to bottom: planning, preflight > rollout > domain, inference > models > scenes, dialects. An import goes
down or stays in its room. The package may import schemas; packs in data/ import `teacher.domain` and `teacher.scenes`.
"""
