"""Tasks of the legal desk for a swarm: many contracts, read by sub-agents in parallel, and one merged answer."""

import random

from teacher.domain import Answer, Blueprint, Part, Solution, Swarm, join_names, template

from .environment import LegalDesk
from .records import TOPICS, Contract
from .textual import phrase, term

READER = "contract-reader"
BRIEF = (
    "You read contracts on a law firm's desk. Look up every fact with the tools. An amendment supersedes the clause,"
    " the latest prevails. Reply in one short sentence."
)
# The topics of which the archive's values are compared with a limit, and the limits.
LIMITS = {
    "liability_cap": (500_000, 1_500_000),
    "notice_period": (20, 70),
    "payment_term": (20, 70),
}


def in_force(world: LegalDesk, contract: Contract, topic: str) -> int:
    """The value of a clause with its latest amendment."""
    clause = contract.clauses[topic]
    amendments = [world._amendments[amendment] for amendment in clause.amendments]
    return max(amendments, key=lambda a: a.effective).value if amendments else clause.value


def read_part(world: LegalDesk, contract: Contract, topic: str) -> Part:
    """The part that finds the value in force of one contract's clause."""
    name, value = TOPICS[topic][0], in_force(world, contract, topic)
    plan: Solution = [("get_clause", {"contract_id": contract.id, "topic": topic})]
    plan += [
        ("get_amendment", {"amendment_id": amendment})
        for amendment in contract.clauses[topic].amendments
    ]
    reply, answer = term(topic, value)
    return Part(
        contract.id,
        f"What {name} is in force under contract {contract.id}?",
        plan,
        reply.replace("The ", f"In {contract.id}, the ", 1),
        answer,
    )


def a_topic(
    world: LegalDesk, rng: random.Random, amended: bool, least: int
) -> tuple[str, list[Contract]]:
    """A random topic, and the desk's contracts in random order, for an unamended topic only those without amendment."""
    fitting = {}
    for topic in TOPICS:
        contracts = list(world._contracts.values())
        has = [contract for contract in contracts if contract.clauses[topic].amendments]
        chosen = contracts if amended and has else [c for c in contracts if c not in has]
        if len(chosen) >= least and (has or not amended):
            fitting[topic] = chosen
    topic = rng.choice(list(fitting))
    return topic, rng.sample(fitting[topic], len(fitting[topic]))


def _compared(world: LegalDesk, rng: random.Random, *, amended: bool, name: str) -> Blueprint:
    """Asks for the highest or lowest value of a clause in two to four contracts."""
    topic, contracts = a_topic(world, rng, amended, least=4)
    chosen, highest = contracts[: rng.choice((2, 3, 4))], rng.random() < 0.5
    values = [in_force(world, contract, topic) for contract in chosen]
    value, which = (max(values), "highest") if highest else (min(values), "lowest")
    request = phrase(
        name,
        rng,
        which=which,
        term=TOPICS[topic][0],
        contracts=join_names([contract.id for contract in chosen]),
    )
    swarm = Swarm(READER, BRIEF, [read_part(world, contract, topic) for contract in chosen])
    reply, answer = term(topic, value)
    reply = reply.replace("The ", f"The {which} ", 1)
    return Blueprint(request, swarm.plan, reply, answer, swarm=swarm)


@template(kind="swarm")
def compared_terms(world: LegalDesk, rng: random.Random) -> Blueprint:
    return _compared(world, rng, amended=False, name="compared_terms")


@template(kind="swarm")
def compared_amended_terms(world: LegalDesk, rng: random.Random) -> Blueprint:
    return _compared(world, rng, amended=True, name="compared_amended_terms")


@template(kind="swarm")
def shortest_notice_on_hold(world: LegalDesk, rng: random.Random) -> Blueprint:
    while True:
        topic, contracts = a_topic(world, rng, amended=False, least=3)
        chosen = contracts[: rng.choice((2, 3))]
        by_value = {contract.clauses[topic].value: contract for contract in chosen}
        if len(by_value) == len(chosen):
            break
    lowest = by_value[min(by_value)]
    own: Solution = [
        ("get_contract", {"contract_id": lowest.id}),
        ("set_matter_status", {"matter_id": lowest.matter, "status": "on_hold"}),
    ]
    swarm = Swarm(READER, BRIEF, [read_part(world, contract, topic) for contract in chosen], own)
    request = phrase(
        "shortest_notice_on_hold",
        rng,
        term=TOPICS[topic][0],
        contracts=join_names([contract.id for contract in chosen]),
    )
    reply = f"Matter {lowest.matter} is now on hold."
    return Blueprint(request, swarm.plan, reply, Answer("text", lowest.matter), swarm=swarm)


@template(kind="swarm")
def portfolio_review(world: LegalDesk, rng: random.Random) -> Blueprint:
    topic = rng.choice(list(LIMITS))
    step = 25_000 if TOPICS[topic][1] == "EUR" else 5
    limit = rng.randrange(*LIMITS[topic], step)
    chosen = rng.sample(list(world._archive().values()), rng.choice((12, 20, 40)))
    below = sum(contract.clauses[topic].value < limit for contract in chosen)
    name, unit = TOPICS[topic]
    amount = f"EUR {limit}" if unit == "EUR" else f"{limit} {unit}"
    request = phrase(
        "portfolio_review",
        rng,
        term=name,
        limit=amount,
        contracts=join_names([contract.id for contract in chosen]),
    )
    swarm = Swarm(READER, BRIEF, [read_part(world, contract, topic) for contract in chosen])
    reply = f"{below} of the {len(chosen)} contracts have a {name} below {amount}."
    return Blueprint(request, swarm.plan, reply, Answer("number", below), swarm=swarm)


@template(kind="swarm")
def invoices_against_contracts(world: LegalDesk, rng: random.Random) -> Blueprint:
    chosen = rng.sample(list(world._archive().values()), 12)
    parts, lines, over = [], [], 0
    # The first contract has the lowest fee, so that at least its invoice charges too much.
    chosen.sort(key=lambda contract: contract.clauses["termination_fee"].value)
    for contract in chosen:
        agreed = contract.clauses["termination_fee"].value
        invoiced = max(
            agreed, rng.randrange(60, 90) * 500 if rng.random() < 0.4 or not parts else 0
        )
        over += invoiced - agreed
        lines.append(f"{contract.id}: EUR {invoiced}")
        parts.append(read_part(world, contract, "termination_fee"))
    rng.shuffle(lines)
    swarm = Swarm(READER, BRIEF, parts)
    request = phrase("invoices_against_contracts", rng, invoices="; ".join(lines))
    reply = f"The invoices charge EUR {over} more than was agreed."
    return Blueprint(request, swarm.plan, reply, Answer("amount", over), swarm=swarm)
