"""The API for authors of domain packs. A pack imports this module and `teacher.scenes` only.

A pack is a directory with domain.yaml and environment.py, and optionally textual.py, visual.py, swarm.py and
extraction.py. environment.py holds one subclass of `Environment`, the world, and may hold task templates below it:

    from teacher.domain import Answer, Blueprint, Environment, template

    class Desk(Environment):
        def reset(self, **task) -> str | None: ...      # builds the world from task["seed"], task["split"]
        def get_contract(self, contract_id: str) -> dict:   # a public method is a tool
            '''Get a contract's main terms.

            Args:
                contract_id: The contract's number, such as C-1042.
            '''

    @template(kind="lookup")
    def contract_signer(world: Desk, rng: random.Random) -> Blueprint: ...

textual.py holds more templates of text-only tasks, visual.py those whose tasks show images, swarm.py those that
decompose into parts for sub-agents, extraction.py those whose answer is a JSON object. A long one may be divided into
files such as textual_calendar.py. A tool may return an image as well: it returns a `teacher.scenes.Scene`, which is
drawn for the model that called the tool.

The files are loaded by path, as modules of one package: they import from each other, and from any other file beside
them, with a dot (`from .environment import Desk`). The class follows TRL's environment convention, so a pack also
serves as `environment_factory` of GRPOTrainer.

Types:
    Environment: base class of a pack's world; its public methods are the tools.
    template: decorates a function `(world, rng) -> Blueprint` as a task template of a kind.
    Template: a decorated function: name, kind, needs_pixels, function, file.
    Blueprint: a task before it is proven: request, solution (`plan`), reply, answer, scenes (`pictures`), program.
    Answer: what the final message must state.
    Swarm, Part: how a task decomposes, for the kind swarm.
    json_task: a blueprint whose answer is a JSON object, for the kind extract.
    read_schemas: the JSON Schemas of a pack's directory schemas.
    join_names: names as a sentence of a request lists them.
    Solution: the gold calls of a task, [(tool, arguments)].
Worlds:
    split_pool: the part of a pool that belongs to a split; train and exam share no entry.
    split_numbers: a split's numbers with a given count of digits.
    day_between: a random day between two ISO dates.
    is_wide: whether a world takes names and numbers from larger pools, as it must in a run of very many tasks.
Arguments of tools:
    get_entry: the entry of a table that a model names by its key, or ValueError.
    require_one_of: the value if it is one of those allowed, or ValueError.
    is_same_name: whether an argument is a name, whatever its case and spacing.
    quote: a value as an error message quotes it.
Questions about images (questions.py documents the operations of a program):
    at: one cell of a scene, as a program names it.
    every: a column or row of cells.
    run_program: the answer that a program computes from the scenes' data.
Tools with given schemas:
    read_tools: the tools of a pack's tools.json.
    given_tool: decorates a method of a world as one of them.
    McpEnvironment: base class of a world whose tools run on an MCP server.
Packs:
    load: loads a pack by its name in data/ or by its directory.
    Domain: a loaded pack.

This room may import `teacher.scenes` and `schemas`. tasks.py samples and proves tasks, unanswerable.py swaps their
images, prompts.py makes their messages, and scoring.py decides whether an episode solved one.
"""

from teacher.domain.blueprint import (
    Answer,
    Blueprint,
    Environment,
    Part,
    Solution,
    Swarm,
    Template,
    template,
)
from teacher.domain.extraction import json_task, read_schemas
from teacher.domain.given_tools import given_tool, read_tools
from teacher.domain.mcp_world import McpEnvironment
from teacher.domain.pack import Domain, load
from teacher.domain.questions import at, every, run_program
from teacher.domain.seeds import is_wide
from teacher.domain.toolkit import (
    day_between,
    get_entry,
    is_same_name,
    join_names,
    quote,
    require_one_of,
    split_numbers,
    split_pool,
)

Plan = Solution  # old name
dealt = split_pool  # old name
dealt_numbers = split_numbers  # old name
known = get_entry  # old name
one_of = require_one_of  # old name
quoted = quote  # old name
same_name = is_same_name  # old name

__all__ = [
    "Answer",
    "Blueprint",
    "Domain",
    "Environment",
    "McpEnvironment",
    "Part",
    "Plan",
    "Solution",
    "Swarm",
    "Template",
    "at",
    "day_between",
    "dealt",
    "dealt_numbers",
    "every",
    "get_entry",
    "given_tool",
    "is_same_name",
    "is_wide",
    "join_names",
    "json_task",
    "known",
    "load",
    "one_of",
    "quote",
    "quoted",
    "read_schemas",
    "read_tools",
    "require_one_of",
    "run_program",
    "same_name",
    "split_numbers",
    "split_pool",
    "template",
]
