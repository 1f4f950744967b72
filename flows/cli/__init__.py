"""The `stillhouse` command: main (the app, the pipeline's commands, errors), and a file for each group of others.

In: the command line. Out: results on stdout, progress and errors on stderr, an exit code. It imports every room, each
in the command that needs it, so that `--help` and `validate` start without torch.
"""
