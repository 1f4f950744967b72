"""The text-only task templates of the legal desk. requests.yaml holds the wordings of the requests."""

import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from teacher.domain import Answer, Blueprint, Solution, template

from .business_days import business_days_from
from .environment import LegalDesk
from .records import JURISDICTIONS, TOPICS, Clause, Contract, Matter, workday

REQUESTS = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text(encoding="utf-8"))


def phrase(name: str, rng: random.Random, /, **facts: Any) -> str:
    """A random wording of a request, filled in with the facts."""
    return rng.choice(REQUESTS[name]).format(**facts)


def a_contract(world: LegalDesk, rng: random.Random) -> Contract:
    """A random contract."""
    return rng.choice(list(world._contracts.values()))


def a_matter(world: LegalDesk, rng: random.Random) -> Matter:
    """A random matter."""
    return rng.choice(list(world._matters.values()))


def a_clause(
    world: LegalDesk, rng: random.Random, fits: Callable[[str, Clause], bool]
) -> tuple[Contract, str, Clause]:
    """A random contract, topic and clause that satisfy `fits(topic, clause)`."""
    return rng.choice(
        [
            (contract, topic, clause)
            for contract in world._contracts.values()
            for topic, clause in contract.clauses.items()
            if fits(topic, clause)
        ]
    )


def term(topic: str, value: int) -> tuple[str, Answer]:
    """The reply that states a clause's value, and the answer that checks it."""
    name, unit = TOPICS[topic]
    if unit == "EUR":
        return f"The {name} is EUR {value}.", Answer("amount", value)
    return f"The {name} is {value} {unit}.", Answer("number", value)


def _conflict(world: LegalDesk) -> tuple[Matter, Matter]:
    """The newest matter, and the older one in which its client is the adverse party."""
    matters = list(world._matters.values())
    return matters[5], next(m for m in matters if m.adverse == matters[5].client)


# ------------------------------------------------------------------------------------------ lookups


@template(kind="lookup")
def clause_term(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = a_clause(world, rng, lambda _, clause: not clause.amendments)
    request = phrase("clause_term", rng, term=TOPICS[topic][0], contract=contract.id)
    reply, answer = term(topic, clause.value)
    return Blueprint(
        request, [("get_clause", {"contract_id": contract.id, "topic": topic})], reply, answer
    )


@template(kind="lookup")
def contract_expiry(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract = a_contract(world, rng)
    request = phrase("contract_expiry", rng, contract=contract.id)
    expiry = contract.expiry.isoformat()
    return Blueprint(
        request,
        [("get_contract", {"contract_id": contract.id})],
        f"Contract {contract.id} expires on {expiry}.",
        Answer("date", expiry),
    )


@template(kind="lookup")
def next_deadline(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter = a_matter(world, rng)
    request = phrase("next_deadline", rng, matter=matter.id)
    event, due = next(iter(matter.deadlines.items()))
    return Blueprint(
        request,
        [("get_deadline", {"matter_id": matter.id})],
        f"The {event.replace('_', ' ')} is due on {due}.",
        Answer("date", due),
    )


@template(kind="lookup")
def unused_retainer(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter = a_matter(world, rng)
    request = phrase("unused_retainer", rng, matter=matter.id)
    unused = matter.retainer - matter.billed
    return Blueprint(
        request,
        [("get_billing", {"matter_id": matter.id})],
        f"The unused retainer on {matter.id} is EUR {unused}.",
        Answer("amount", unused),
    )


@template(kind="lookup")
def responsible_lawyer(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter = a_matter(world, rng)
    request = phrase("responsible_lawyer", rng, matter=matter.id)
    return Blueprint(
        request,
        [("get_matter", {"matter_id": matter.id})],
        f"The responsible lawyer is {matter.lawyer}.",
        Answer("text", matter.lawyer),
    )


@template(kind="lookup")
def adverse_matter(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter = a_matter(world, rng)
    request = phrase("adverse_matter", rng, party=matter.adverse)
    return Blueprint(
        request,
        [("check_conflict", {"party": matter.adverse})],
        f"{matter.adverse} is the adverse party in {matter.id}.",
        Answer("text", matter.id),
    )


# Questions that sound like one of the writes below and ask for none.


@template(kind="lookup")
def duty_still_owed(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract = a_contract(world, rng)
    duty, obligation = rng.choice(list(contract.obligations.items()))
    request = phrase("duty_still_owed", rng, duty=duty.replace("_", " "), contract=contract.id)
    due = world._due[obligation]
    return Blueprint(
        request,
        [("get_obligation", {"contract_id": contract.id, "duty": duty})],
        f"It is due on {due}.",
        Answer("date", due),
    )


@template(kind="lookup")
def conflict_only_asked(world: LegalDesk, rng: random.Random) -> Blueprint:
    new, old = _conflict(world)
    request = phrase("conflict_only_asked", rng, party=new.client, matter=new.id)
    return Blueprint(
        request,
        [("check_conflict", {"party": new.client})],
        f"{new.client} is the adverse party in {old.id}.",
        Answer("text", old.id),
    )


# ---------------------------------------------------------------------------------------- workflows


@template(kind="workflow")
def term_with_counterparty(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = a_clause(world, rng, lambda _, clause: not clause.amendments)
    request = phrase(
        "term_with_counterparty", rng, term=TOPICS[topic][0], name=contract.counterparty
    )
    solution: Solution = [
        ("find_contract", {"counterparty": contract.counterparty}),
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
    ]
    return Blueprint(request, solution, *term(topic, clause.value))


@template(kind="workflow")
def amended_term(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = a_clause(world, rng, lambda _, clause: len(clause.amendments) == 1)
    amendment = clause.amendments[0]
    request = phrase("amended_term", rng, term=TOPICS[topic][0], contract=contract.id)
    solution: Solution = [
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("get_amendment", {"amendment_id": amendment}),
    ]
    return Blueprint(request, solution, *term(topic, world._amendments[amendment].value))


@template(kind="workflow")
def twice_amended_term(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = a_clause(world, rng, lambda _, clause: len(clause.amendments) == 2)
    request = phrase("twice_amended_term", rng, term=TOPICS[topic][0], contract=contract.id)
    latest = max((world._amendments[a] for a in clause.amendments), key=lambda a: a.effective)
    solution: Solution = [("get_clause", {"contract_id": contract.id, "topic": topic})]
    solution += [("get_amendment", {"amendment_id": amendment}) for amendment in clause.amendments]
    return Blueprint(request, solution, *term(topic, latest.value))


@template(kind="workflow")
def time_on_contract(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, hours = a_contract(world, rng), rng.randrange(2, 60) / 10
    request = phrase("time_on_contract", rng, hours=hours, contract=contract.id)
    solution: Solution = [
        ("get_contract", {"contract_id": contract.id}),
        ("log_time", {"matter_id": contract.matter, "hours": hours}),
    ]
    return Blueprint(request, solution, f"Logged {hours} hours on {contract.matter}.")


@template(kind="workflow")
def contract_matter_status(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, status = a_contract(world, rng), rng.choice(("on_hold", "closed"))
    request = phrase(f"contract_matter_{status}", rng, contract=contract.id)
    solution: Solution = [
        ("get_contract", {"contract_id": contract.id}),
        ("set_matter_status", {"matter_id": contract.matter, "status": status}),
    ]
    return Blueprint(
        request, solution, f"Matter {contract.matter} is now {status.replace('_', ' ')}."
    )


@template(kind="workflow")
def performed_obligation(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract = a_contract(world, rng)
    duty, obligation = rng.choice(list(contract.obligations.items()))
    request = phrase("performed_obligation", rng, duty=duty.replace("_", " "), contract=contract.id)
    solution: Solution = [
        ("get_obligation", {"contract_id": contract.id, "duty": duty}),
        ("close_obligation", {"obligation_id": obligation}),
    ]
    return Blueprint(request, solution, f"Obligation {obligation} is recorded as performed.")


@template(kind="workflow")
def conflict_at_intake(world: LegalDesk, rng: random.Random) -> Blueprint:
    new, old = _conflict(world)
    request = phrase("conflict_at_intake", rng, party=new.client, matter=new.id)
    solution: Solution = [
        ("check_conflict", {"party": new.client}),
        ("flag_conflict", {"matter_id": new.id, "conflicts_with": old.id}),
    ]
    return Blueprint(request, solution, f"Flagged {new.id}: it conflicts with {old.id}.")


@template(kind="workflow")
def payment_due(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = a_clause(
        world, rng, lambda topic, clause: topic == "payment_term" and not clause.amendments
    )
    invoice, law = workday(rng, "2026-01-05", "2026-02-27"), contract.governing_law
    request = phrase("payment_due", rng, contract=contract.id, date=invoice, law=law)
    due = business_days_from(dt.date.fromisoformat(invoice), clause.value, law).isoformat()
    solution: Solution = [
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("add_business_days", {"date": invoice, "days": clause.value, "jurisdiction": law}),
    ]
    return Blueprint(request, solution, f"Payment is due on {due}.", Answer("date", due))


@template(kind="workflow")
def extended_deadline(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter, days, law = a_matter(world, rng), rng.randrange(2, 29), rng.choice(JURISDICTIONS)
    event, old = next(iter(matter.deadlines.items()))
    request = phrase("extended_deadline", rng, matter=matter.id, days=days, law=law)
    new = business_days_from(dt.date.fromisoformat(old), days, law).isoformat()
    solution: Solution = [
        ("get_deadline", {"matter_id": matter.id}),
        ("add_business_days", {"date": old, "days": days, "jurisdiction": law}),
        ("set_deadline", {"matter_id": matter.id, "event": event, "date": new}),
    ]
    reply = f"The {event.replace('_', ' ')} deadline is now {new}."
    return Blueprint(request, solution, reply, Answer("date", new))


@template(kind="workflow")
def possible_extension(world: LegalDesk, rng: random.Random) -> Blueprint:
    """Sounds like extended_deadline and asks for no write."""
    matter, days, law = a_matter(world, rng), rng.randrange(2, 29), rng.choice(JURISDICTIONS)
    old = next(iter(matter.deadlines.values()))
    request = phrase("possible_extension", rng, matter=matter.id, days=days, law=law)
    new = business_days_from(dt.date.fromisoformat(old), days, law).isoformat()
    solution: Solution = [
        ("get_deadline", {"matter_id": matter.id}),
        ("add_business_days", {"date": old, "days": days, "jurisdiction": law}),
    ]
    return Blueprint(request, solution, f"It would be {new}.", Answer("date", new))


def _back(contract: Contract, days: int) -> dict[str, Any]:
    """The arguments that count a notice period back from expiry, under the contract's own law."""
    return {
        "date": contract.expiry.isoformat(),
        "days": -days,
        "jurisdiction": contract.governing_law,
    }


def _last_day(contract: Contract, days: int) -> str:
    """The last day for notice, `days` business days before expiry."""
    return business_days_from(contract.expiry, -days, contract.governing_law).isoformat()


@template(kind="workflow")
def non_renewal_deadline(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = a_clause(
        world, rng, lambda topic, clause: topic == "notice_period" and not clause.amendments
    )
    request = phrase("non_renewal_deadline", rng, contract=contract.id)
    last = _last_day(contract, clause.value)
    solution: Solution = [
        ("get_contract", {"contract_id": contract.id}),
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("add_business_days", _back(contract, clause.value)),
        ("set_deadline", {"matter_id": contract.matter, "event": "non_renewal", "date": last}),
    ]
    return Blueprint(
        request, solution, f"The non-renewal deadline is {last}.", Answer("date", last)
    )


@template(kind="workflow")
def last_notice_day(world: LegalDesk, rng: random.Random) -> Blueprint:
    """Sounds like non_renewal_deadline and asks for no write."""
    contract, topic, clause = a_clause(
        world, rng, lambda topic, clause: topic == "notice_period" and not clause.amendments
    )
    last = _last_day(contract, clause.value)
    solution: Solution = [
        ("get_contract", {"contract_id": contract.id}),
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("add_business_days", _back(contract, clause.value)),
    ]
    request = phrase("last_notice_day", rng, contract=contract.id)
    return Blueprint(request, solution, f"Notice must go out by {last}.", Answer("date", last))


@template(kind="workflow")
def amended_notice_day(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = a_clause(
        world, rng, lambda topic, clause: topic == "notice_period" and len(clause.amendments) == 1
    )
    request = phrase("amended_notice_day", rng, name=contract.counterparty)
    amendment = world._amendments[clause.amendments[0]]
    last = _last_day(contract, amendment.value)
    solution: Solution = [
        ("find_contract", {"counterparty": contract.counterparty}),
        ("get_contract", {"contract_id": contract.id}),
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("get_amendment", {"amendment_id": amendment.id}),
        ("add_business_days", _back(contract, amendment.value)),
    ]
    return Blueprint(request, solution, f"The last day for notice is {last}.", Answer("date", last))
