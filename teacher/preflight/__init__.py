"""The pre-flight: checks that a served teacher is the model it should be, with all its abilities, before a generation.

`run.check` runs the checks of `checks` and `inputs` on a `target.Target`; `vendor_verifier` has the reference replies
and the two metrics of Moonshot AI's K2 Vendor Verifier. Comes in: an endpoint, a teacher's description, a domain pack.
Goes
out: a result that follows schemas/fidelity.schema.json. May import teacher.rollout, teacher.domain, teacher.inference
    and what lies below them.
"""
