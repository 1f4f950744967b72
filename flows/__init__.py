"""What runs, when and where: recipes, runs, the Prefect flow and the command line."""
