"""The stages of a run, one file each, in the order of PIPELINE.

A stage reads files of the run's directory and writes others there, so that it can be run again alone and its outputs
be read by eye. In: a RunContext. Out: files and a receipt (flows/run_directory.py). It may import teacher/, student/
and schemas/, and of flows/ run_context, run_directory and progress.
"""

from flows.stages.evaluate import evaluate
from flows.stages.export import export
from flows.stages.filter import filter_traces
from flows.stages.generate import generate
from flows.stages.plan import plan
from flows.stages.publish import publish
from flows.stages.stage import Stage
from flows.stages.train import train

PIPELINE: dict[str, Stage] = {
    stage.name: stage for stage in (plan, generate, filter_traces, train, export, evaluate, publish)
}
