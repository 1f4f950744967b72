"""The store: publishes students as OCI artifacts, finds them by name, and pulls their files.

In: the files of an export, the exam's scorecard, the filter's ledger. Out: a version in a store, or a student's files
in another directory.

- store.py is the interface of a store; oci_layout.py (with layout_files.py) is one in a directory, oci_registry.py
  (with oci_http.py, credentials.py, claims.py) one in a registry; open_store.py opens either, location.py reads what a
  person writes.
- artifact.py and modelpack.py describe a version; publish.py adds one, lookup.py finds one, pull.py copies its files,
  upkeep.py moves tags, removes and pushes; signatures.py and attestations.py sign.
- model_card.py, card_exam.py and parquet.py write files of a student.

May import schemas, student.models and teacher.scenes (the images of traces).
"""
