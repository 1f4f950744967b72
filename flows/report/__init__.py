"""Writes RUN/report.html, one page about a run: traces kept and rejected, training curves, exam, samples, files.

In: a run directory, finished or not. Out: the page. It imports flows.run_directory and what reads a run's files from
student/, teacher/ and schemas/.
"""
