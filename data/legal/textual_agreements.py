"""Task templates about the full texts of contracts, which are read part by part (agreements.py).

They are about what a record does not say: defined terms and their amendments, clauses that refer to others, which of
two amendments prevails, and schedules.
"""

import datetime as dt
import random
from collections.abc import Callable

from teacher.domain import Answer, Blueprint, Solution, template

from .agreements import WORDS, Agreement
from .business_days import business_days_from
from .environment import LegalDesk
from .records import Contract, workday
from .textual import phrase


def a_text(
    world: LegalDesk,
    rng: random.Random,
    fits: Callable[[Contract, Agreement], bool] = lambda *_: True,
) -> tuple[Contract, Agreement]:
    """A random contract of the desk and its text that satisfy `fits`."""
    contracts = list(world._contracts.values())
    rng.shuffle(contracts)
    texts = ((contract, world._agreement(contract.id)) for contract in contracts)
    return next((contract, text) for contract, text in texts if fits(contract, text))


def read_fee(contract: Contract, text: Agreement, start: str) -> Solution:
    """The calls that find the Base Fee in force. start: the part that is read for the definition."""
    solution: Solution = [("read_part", {"contract_id": contract.id, "part": start})]
    if len(text.fee_amendments) > 1:
        solution.append(("read_part", {"contract_id": contract.id, "part": text.precedence}))
    solution += [("get_amendment", {"amendment_id": each.id}) for each in text.fee_amendments]
    return solution


@template(kind="document")
def term_of_an_article(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The table of contents leads to the article."""
    contract, text = a_text(world, rng)
    heading = rng.choice(sorted(text.terms))
    article = next(number for number, each in text.headings.items() if each == heading)
    request = phrase(
        "term_of_an_article", rng, contract=contract.id, term=WORDS["terms"][heading][3]
    )
    value = text.terms[heading]
    solution: Solution = [
        ("read_part", {"contract_id": contract.id, "part": "contents"}),
        ("read_part", {"contract_id": contract.id, "part": str(article)}),
    ]
    return Blueprint(
        request,
        solution,
        f"It is {value}, in the article on {heading.lower()}.",
        Answer("number", value),
    )


@template(kind="document")
def scheduled_rate(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, text = a_text(world, rng)
    title, roles = WORDS["schedules"][0]
    role, days = rng.choice(roles), rng.randrange(3, 40)
    rate = text.schedules[title][f"{role}, EUR a day"]
    request = phrase("scheduled_rate", rng, contract=contract.id, role=role.lower(), days=days)
    solution: Solution = [("read_part", {"contract_id": contract.id, "part": "schedule 1"})]
    reply = f"{days} days at EUR {rate} are EUR {days * rate}."
    return Blueprint(request, solution, reply, Answer("amount", days * rate))


def base_fee(world: LegalDesk, rng: random.Random, name: str, amendments: int) -> Blueprint:
    """A task named `name` that asks for a Base Fee with so many amendments."""
    contract, text = a_text(world, rng, lambda _, text: len(text.fee_amendments) == amendments)
    request = phrase(name, rng, contract=contract.id)
    fee = text.fee_in_force()
    solution = read_fee(contract, text, "definitions")
    return Blueprint(request, solution, f"The Base Fee is EUR {fee}.", Answer("amount", fee))


@template(kind="document")
def amended_definition(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A defined term whose definition was amended once."""
    return base_fee(world, rng, "amended_definition", amendments=1)


@template(kind="document")
def conflicting_amendments(world: LegalDesk, rng: random.Random) -> Blueprint:
    """Two amendments of a defined term: the clause to which the definition refers says which prevails."""
    return base_fee(world, rng, "conflicting_amendments", amendments=2)


@template(kind="document")
def damages_for_delay(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A clause with a defined term; a share of the Base Fee, as amended."""
    contract, text = a_text(world, rng, lambda _, text: len(text.fee_amendments) < 2)
    clause, percent = text.delay
    weeks = rng.randrange(2, 9)
    request = phrase("damages_for_delay", rng, contract=contract.id, clause=clause, weeks=weeks)
    weekly = text.fee_in_force() * percent // 100
    solution: Solution = [("read_part", {"contract_id": contract.id, "part": clause})]
    solution += read_fee(contract, text, "definitions")
    reply = f"EUR {weekly} a week, so EUR {weekly * weeks} in all."
    return Blueprint(request, solution, reply, Answer("amount", weekly * weeks))


@template(kind="document")
def cap_for_a_breach(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The limit of liability is subject to a clause of another article, which may raise it for its own breach alone."""
    contract, text = a_text(
        world, rng, lambda contract, _: not contract.clauses["liability_cap"].amendments
    )
    cap, (exception, heading, percent) = contract.clauses["liability_cap"], text.exception
    # Sometimes the breach is of another article, to which the exception does not apply.
    others = sorted(set(WORDS["protected"]) - {heading})
    breach = rng.choice(others) if rng.random() < 0.3 else heading
    value = cap.value * (percent if breach == heading else 100) // 100
    request = phrase(
        "cap_for_a_breach", rng, contract=contract.id, breach=WORDS["protected"][breach]
    )
    solution: Solution = [
        ("get_clause", {"contract_id": contract.id, "topic": "liability_cap"}),
        ("read_part", {"contract_id": contract.id, "part": cap.number}),
        ("read_part", {"contract_id": contract.id, "part": exception}),
    ]
    return Blueprint(request, solution, f"The cap is EUR {value}.", Answer("amount", value))


@template(kind="document")
def due_in_banking_days(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The days of payment are a defined term, whose holidays need not be those of the governing law."""
    contract, text = a_text(
        world, rng, lambda contract, _: not contract.clauses["payment_term"].amendments
    )
    days, invoice = contract.clauses["payment_term"].value, workday(rng, "2026-01-05", "2026-02-27")
    request = phrase("due_in_banking_days", rng, contract=contract.id, date=invoice)
    due = business_days_from(dt.date.fromisoformat(invoice), days, text.place)
    solution: Solution = [
        ("get_clause", {"contract_id": contract.id, "topic": "payment_term"}),
        ("read_part", {"contract_id": contract.id, "part": "definitions"}),
        ("add_business_days", {"date": invoice, "days": days, "jurisdiction": text.place}),
    ]
    return Blueprint(request, solution, f"It is due on {due}.", Answer("date", due))
