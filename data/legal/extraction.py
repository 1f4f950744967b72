"""Extraction tasks of the legal desk: the answer is a JSON object of a schema in schemas/."""

import random
from pathlib import Path
from typing import Any

from teacher.domain import Blueprint, Solution, json_task, read_schemas, template

from .environment import LegalDesk
from .records import TOPICS
from .textual import a_clause, a_contract, a_matter, phrase
from .textual_agreements import a_text
from .visual import _DAYS, _page, _soon

SCHEMAS = read_schemas(Path(__file__).with_name("schemas"))


@template(kind="extract")
def clause_record(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A clause with all its amendments, in the order in which the clause names them."""
    contract, topic, clause = a_clause(
        world, rng, lambda topic, clause: bool(clause.amendments) or topic == "late_interest"
    )
    amendments = [world._amendments[number] for number in clause.amendments]
    latest = max(amendments, key=lambda amendment: amendment.effective, default=None)
    plan: Solution = [("get_clause", {"contract_id": contract.id, "topic": topic})]
    plan += [("get_amendment", {"amendment_id": each.id}) for each in amendments]
    value = {
        "contract": contract.id,
        "topic": topic,
        "clause": clause.number,
        "value": clause.value,
        "unit": clause.unit,
        "amendments": [
            {"id": each.id, "value": each.value, "effective": each.effective.isoformat()}
            for each in amendments
        ],
        "in_force": latest.value if latest else None,
    }
    request = phrase("clause_record", rng, term=TOPICS[topic][0], contract=contract.id)
    return json_task(SCHEMAS["clause_record"], request, plan, value)


@template(kind="extract")
def matter_sheet(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A matter from three tables: its file, its billing, its calendar."""
    matter = a_matter(world, rng)
    asked = {"matter_id": matter.id}
    due = world.get_deadline(**asked)
    value = {
        "client": matter.client,
        "lawyer": matter.lawyer,
        "status": matter.status,
        "money": {
            "retainer": matter.retainer,
            "billed": matter.billed,
            "unused": matter.retainer - matter.billed,
        },
        "next": {"event": due["event"], "due": due["due"]},
    }
    plan: Solution = [(tool, asked) for tool in ("get_matter", "get_billing", "get_deadline")]
    return json_task(
        SCHEMAS["matter_sheet"], phrase("matter_sheet", rng, matter=matter.id), plan, value
    )


@template(kind="extract")
def amendment_page(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A page: its number, its signature and its stamp may be absent."""
    contract, topic = a_contract(world, rng), rng.choice(sorted(_DAYS))
    days, start = rng.randrange(2, 19) * 5, _soon(rng)
    fields = {"Contract": contract.id, _DAYS[topic]: f"{days} business days", "Effective": start}
    lawyer = world._matters[contract.matter].lawyer
    more: dict[str, Any] = {}
    # No exam has a number of five digits (teacher/domain/seeds.py), so the splits share none.
    first = 10_000 if world._task["split"] == "train" else 0
    if number := rng.choice([None, f"A-{first + rng.randrange(1001, 9999)}"]):
        more["number"] = number
    signed = rng.choice([[], [lawyer]])
    if signed:
        more["signatures"] = [{"name": name} for name in signed]
    page = _page("amendment", "Amendment", fields, rng, **more)
    value = {
        "contract": contract.id,
        "amendment": number,
        "topic": topic,
        "business_days": days,
        "effective": start,
        "signed_by": signed,
        "stamp": page.data.get("stamp"),
    }
    request = phrase("amendment_page", rng)
    return json_task(SCHEMAS["amendment_page"], request, [], value, pictures=[page])


@template(kind="extract")
def agreement_sheet(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A contract's text, from three of its parts; the Base Fee that amendments leave, or null if there is none."""
    contract, text = a_text(world, rng, lambda _, text: len(text.fee_amendments) < 2)
    parts = ("recitals", "definitions", "schedule 2")
    plan: Solution = [("read_part", {"contract_id": contract.id, "part": part}) for part in parts]
    plan += [("get_amendment", {"amendment_id": each.id}) for each in text.fee_amendments]
    value = {
        "contract": contract.id,
        "customer": world._matters[contract.matter].client,
        "supplier": contract.counterparty,
        "signed": text.signed,
        "calendar": text.place,
        "base_fee_eur": text.fee,
        "amendments": [
            {"id": each.id, "effective": each.effective.isoformat()} for each in text.fee_amendments
        ],
        "amended_fee_eur": text.fee_in_force() if text.fee_amendments else None,
        "dates": [{"step": name, "date": day} for name, day in text.schedules["2 Dates"].items()],
    }
    request = phrase("agreement_sheet", rng, contract=contract.id)
    return json_task(SCHEMAS["agreement_sheet"], request, plan, value)
