"""Generation: episodes are played in shards of tasks, here or by workers on other machines.

In: a run's directory with its plan, and the served teacher. Out: traces/NNNNN.jsonl.zst, the traces of one shard of
consecutive tasks each, and a receipt of each in stages/generate/. shards.py knows these files, episodes.py plays,
runners.py hands shards out. It may import of flows/ run_context, run_directory, progress and estimate.
"""
