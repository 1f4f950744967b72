"""Scheduled runs: deployments.yaml, and the Prefect objects that `stillhouse deploy` makes from it.

In: the file and the Prefect server that PREFECT_API_URL names. Out: work pools and deployments of the flow `distill`.
What a deployment does when it runs is flows/distill.py.
"""
