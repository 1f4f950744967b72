"""The store: publishes students as OCI artifacts, finds them by name, and pulls their files.

In: the files of an export, the exam's scorecard, the filter's ledger. Out: a version in a store, or a student's files
in another directory. artifact.py describes the files, publish.py adds a version, lookup.py finds one, pull.py copies
its files, oci_layout.py reads and writes the layout on disk; model_card.py and parquet.py write two of the files.
May import schemas and teacher.scenes (the images of traces).
"""
