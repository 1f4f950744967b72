"""Generation: episodes are played in shards of tasks, here or by workers on other machines.

In: a run's directory with its plan, and the served teacher. Out: traces/NNNNN.jsonl.zst, the traces of one shard of
consecutive tasks each, and a receipt of each in stages/generate/. shards.py knows these files, episodes.py plays,
worker.py plays one in a worker's process, and runners.py hands them out. Of flows/ it imports run_context,
run_directory and request_lines.
"""
