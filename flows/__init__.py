"""What runs, when and where: recipes, run directories, the stages, the Prefect flow, the report and the command line.

In: a domain pack and a recipe. Out: a run's directory and a published student. It imports student/, teacher/ and
schemas/, and nothing imports it. Inside: cli > distill > summary, report, stages > run_context, run_directory,
recipe_file, progress.
"""
