"""The world of the legal desk: contracts and amendments, matters, deadlines, conflicts, obligations and time.

A world has six contracts with their texts (agreements.py) and six matters, built from the task's seed. Everything in
it is invented. Names and numbers of train and exam worlds come from disjoint pools, split so that every digit and every
syllable occurs in both: the exam has new entities, not a new alphabet.
"""

import datetime as dt
import random
from collections.abc import Collection
from typing import Any

from teacher.domain import (
    Environment,
    day_between,
    get_entry,
    is_same_name,
    is_wide,
    quote,
    require_one_of,
    split_numbers,
    split_pool,
)

from .agreements import Agreement, write_agreement
from .business_days import business_days_from
from .records import (
    AMENDED_TOPICS,
    COURT_EVENTS,
    DUTIES,
    EVENTS,
    GIVEN,
    JURISDICTIONS,
    LAWS,
    STATUSES,
    STEMS,
    TOPICS,
    TRADES,
    Amendment,
    Clause,
    Contract,
    Duty,
    Event,
    Jurisdiction,
    Matter,
    Status,
    Topic,
    clause_value,
    old_contract,
    to_date,
    workday,
)

MAX_DAYS = 400
ARCHIVED = 40
# How many amendments of the Base Fee the text of each contract has.
FEE_AMENDMENTS = (0, 1, 2, 2, 1, 2)


class LegalDesk(Environment):
    """A law firm's contract desk."""

    def reset(self, **task: Any) -> str | None:
        self._task = task
        split = task["split"]
        rng = random.Random(f"{split}:{task['seed']}")
        stems = rng.sample(split_pool(STEMS, split), 24)
        companies = [f"{stem} {rng.choice(TRADES.split())}" for stem in stems[:18]]
        lawyers = [f"{rng.choice(GIVEN.split())} {stem}" for stem in stems[18:]]
        pool = split_numbers(split, 10_000 if is_wide(split, task["seed"]) else 100)
        numbers = [rng.sample(pool, count) for count in (6, 6, 6, 12)]
        contract_ids, matter_ids, amendment_ids, obligation_ids = (
            [f"{letter}-{number}" for number in chosen]
            for letter, chosen in zip("CMAO", numbers, strict=True)
        )
        self._matters: dict[str, Matter] = {}
        for i, matter in enumerate(matter_ids):
            retainer = rng.randrange(8, 80) * 500
            event, due = rng.choice(COURT_EVENTS), workday(rng, "2026-05-04", "2027-03-31")
            self._matters[matter] = Matter(
                matter,
                # The newest client is the adverse party of an older matter: a conflict to find.
                client=companies[6] if i == 5 else companies[i],
                adverse=companies[6 + i],
                lawyer=lawyers[i],
                status="open",
                retainer=retainer,
                billed=rng.randrange(20, retainer // 10 - 20) * 10,
                deadlines={event: due},
                tenths=0,
            )
        self._archived: dict[str, Contract] = {}
        self._contracts: dict[str, Contract] = {}
        self._agreements: dict[str, Agreement] = {}
        self._fee_amendments: dict[str, str] = {}
        self._amendments: dict[str, Amendment] = {}
        self._conflicts: set[tuple[str, str]] = set()
        self._performed = dict.fromkeys(obligation_ids, False)
        self._due = {o: workday(rng, "2026-03-09", "2026-12-31") for o in obligation_ids}
        # Two contracts are unamended, two amended once, two amended twice, with one notice period each.
        amended = ["", "", "notice_period", *rng.choices(AMENDED_TOPICS, k=2), "notice_period"]
        for i, contract in enumerate(contract_ids):
            clauses = {}
            article = rng.sample(range(3, 24), len(TOPICS))
            for topic, section in zip(TOPICS, article, strict=True):
                number = f"{section}.{rng.randrange(1, 6)}"
                clauses[topic] = Clause(number, clause_value(topic, rng), TOPICS[topic][1], [])
            if topic := amended[i]:
                self._amend(
                    clauses[topic], topic, [amendment_ids.pop() for _ in range(1 + i // 4)], rng
                )
            duties = dict(
                zip(rng.sample(DUTIES, 2), obligation_ids[2 * i : 2 * i + 2], strict=True)
            )
            self._contracts[contract] = Contract(
                id=contract,
                counterparty=companies[12 + i],
                governing_law=rng.choice(LAWS),
                expiry=day_between(rng, "2027-01-04", "2029-12-28"),
                matter=matter_ids[i],
                clauses=clauses,
                obligations=duties,
            )
        return None

    def _archive(self) -> dict[str, Contract]:
        """The older contracts of the firm: many, unamended, made when first needed."""
        if not self._archived:
            split, seed = self._task["split"], self._task["seed"]
            rng = random.Random(f"archive:{split}:{seed}")
            free = self._free_numbers("C", self._contracts)
            numbers = [f"C-{number}" for number in rng.sample(free, ARCHIVED)]
            stems = split_pool(STEMS, split)
            self._archived = {n: old_contract(n, stems, [*self._matters], rng) for n in numbers}
        return self._archived

    def _free_numbers(self, letter: str, taken: Collection[str]) -> list[int]:
        """The numbers of the split that no entry of a table has."""
        split, seed = self._task["split"], self._task["seed"]
        pool = split_numbers(split, 10_000 if is_wide(split, seed) else 100)
        return [number for number in pool if f"{letter}-{number}" not in taken]

    def _agreement(self, contract_id: str) -> Agreement:
        """The text of a contract of the desk, made when first read, or ValueError."""
        contract = self._contract(contract_id)
        if contract.id not in self._contracts:
            raise ValueError(f"contract {contract.id} is in the archive, which has no texts")
        if contract.id not in self._agreements:
            split, seed = self._task["split"], self._task["seed"]
            rng = random.Random(f"text:{split}:{seed}:{contract.id}")
            dealt = self._deal_fee_amendments()
            amendments = [number for number, other in dealt.items() if other == contract.id]
            # Where a clause of the record is amended twice, the later amendment prevails.
            twice = any(len(clause.amendments) > 1 for clause in contract.clauses.values())
            earlier = not twice and rng.random() < 0.5
            client = self._matters[contract.matter].client
            self._agreements[contract.id] = write_agreement(
                contract, client, amendments, earlier, rng
            )
        return self._agreements[contract.id]

    def _deal_fee_amendments(self) -> dict[str, str]:
        """The amendments of the contracts' Base Fees, each with its contract."""
        if not self._fee_amendments:
            rng = random.Random(f"fees:{self._task['split']}:{self._task['seed']}")
            free = self._free_numbers("A", self._amendments)
            numbers = iter(rng.sample(free, sum(FEE_AMENDMENTS)))
            for contract, count in zip(self._contracts, FEE_AMENDMENTS, strict=True):
                self._fee_amendments |= {f"A-{next(numbers)}": contract for _ in range(count)}
        return self._fee_amendments

    def _amendment(self, amendment_id: str) -> Amendment:
        """An amendment of a clause of the record or of a Base Fee, or ValueError."""
        dealt = self._deal_fee_amendments()
        if isinstance(amendment_id, str) and amendment_id in dealt:
            fees = self._agreement(dealt[amendment_id]).fee_amendments
            return next(each for each in fees if each.id == amendment_id)
        amendment: Amendment = get_entry(self._amendments, amendment_id, "amendment")
        return amendment

    def _contract(self, contract_id: str) -> Contract:
        """A contract of the desk or of the archive, or ValueError."""
        if isinstance(contract_id, str) and contract_id in self._contracts:
            return self._contracts[contract_id]
        contract: Contract = get_entry(self._archive(), contract_id, "contract")
        return contract

    def _amend(self, clause: Clause, topic: str, ids: list[str], rng: random.Random) -> None:
        """Adds amendments with distinct values and dates; their numbers are not in the order of their dates."""
        values: set[int] = {clause.value}
        dates: set[dt.date] = set()
        for amendment in sorted(ids):
            while (value := clause_value(topic, rng)) in values:
                continue
            while (effective := day_between(rng, "2024-01-08", "2026-02-20")) in dates:
                continue
            values.add(value)
            dates.add(effective)
            clause.amendments.append(amendment)
            self._amendments[amendment] = Amendment(amendment, value, clause.unit, effective)

    def _state(self) -> Any:
        return {
            "matters": {
                m.id: {
                    "status": m.status,
                    "deadlines": m.deadlines,
                    "tenths": m.tenths,
                }
                for m in self._matters.values()
            },
            "performed": self._performed,
            "conflicts": sorted(self._conflicts),
        }

    # ------------------------------------------------------------------------------ tools that read

    def find_contract(self, counterparty: str) -> dict:
        """Find the contract with a counterparty.

        Args:
            counterparty: Full name, e.g. Amber Freight
        """
        for contract in self._contracts.values():
            if is_same_name(contract.counterparty, counterparty):
                return {"contract_id": contract.id, "counterparty": contract.counterparty}
        raise ValueError(
            f"no contract with {quote(counterparty)}: give the counterparty's full name"
        )

    def get_contract(self, contract_id: str) -> dict:
        """Get a contract's governing law, expiry and matter.

        Args:
            contract_id: e.g. C-100
        """
        contract = self._contract(contract_id)
        return {
            "counterparty": contract.counterparty,
            "governing_law": contract.governing_law,
            "expiry": contract.expiry.isoformat(),
            "matter_id": contract.matter,
        }

    def get_clause(self, contract_id: str, topic: Topic) -> dict:
        """Get a clause as signed, and what amended it.

        Args:
            contract_id: e.g. C-100
            topic: What the clause is about
        """
        contract = self._contract(contract_id)
        clause = contract.clauses[require_one_of(topic, TOPICS, "topic")]
        return {
            "clause": clause.number,
            "value": clause.value,
            "unit": clause.unit,
            "amended_by": clause.amendments,
        }

    def get_amendment(self, amendment_id: str) -> dict:
        """Get an amendment's new value and effective date.

        Args:
            amendment_id: e.g. A-100
        """
        amendment = self._amendment(amendment_id)
        said = {"precedence": "prevails over other amendments"} if amendment.prevails else {}
        return {
            "amendment_id": amendment.id,
            "value": amendment.value,
            "unit": amendment.unit,
            "effective": amendment.effective.isoformat(),
            **said,
        }

    def read_part(self, contract_id: str, part: str) -> dict:
        """Read a part of a contract's text.

        Args:
            contract_id: e.g. C-100
            part: contents, recitals, definitions, schedule 1, or a clause, e.g. 7 or 7.2
        """
        return self._agreement(contract_id).part(part)

    def get_matter(self, matter_id: str) -> dict:
        """Get a matter's client, responsible lawyer and status.

        Args:
            matter_id: e.g. M-100
        """
        matter = get_entry(self._matters, matter_id, "matter")
        return {
            "matter_id": matter.id,
            "client": matter.client,
            "lawyer": matter.lawyer,
            "status": matter.status,
        }

    def get_billing(self, matter_id: str) -> dict:
        """Get a matter's retainer in EUR: paid, billed and unused.

        Args:
            matter_id: e.g. M-100
        """
        matter = get_entry(self._matters, matter_id, "matter")
        return {
            "matter_id": matter.id,
            "retainer": matter.retainer,
            "billed": matter.billed,
            "unused": matter.retainer - matter.billed,
        }

    def get_deadline(self, matter_id: str) -> dict:
        """Get a matter's next deadline.

        Args:
            matter_id: e.g. M-100
        """
        matter = get_entry(self._matters, matter_id, "matter")
        due, event = min((due, event) for event, due in matter.deadlines.items())
        return {"matter_id": matter.id, "event": event, "due": due}

    def get_obligation(self, contract_id: str, duty: Duty) -> dict:
        """Get an obligation under a contract.

        Args:
            contract_id: e.g. C-100
            duty: What is owed
        """
        contract = self._contract(contract_id)
        obligation = contract.obligations.get(require_one_of(duty, DUTIES, "duty"))
        if obligation is None:
            owed = ", ".join(contract.obligations) or "none"
            raise ValueError(f"contract {contract.id} has no {duty}: its obligations are {owed}")
        return {
            "obligation_id": obligation,
            "due": self._due[obligation],
            "status": "performed" if self._performed[obligation] else "outstanding",
        }

    def check_conflict(self, party: str) -> dict:
        """Search all matters for a party, for the conflicts check.

        Args:
            party: Full name, e.g. Amber Freight
        """
        for role in ("adverse", "client"):
            for matter in self._matters.values():
                if is_same_name(getattr(matter, role), party):
                    return {"matter_id": matter.id, "role": role, "status": matter.status}
        return {"role": "none"}

    def add_business_days(self, date: str, days: int, jurisdiction: Jurisdiction) -> dict:
        """Count business days from a date, holidays skipped.

        Args:
            date: Start, e.g. 2026-04-01
            days: How many; negative counts back, 0 only moves a day off to the next business day
            jurisdiction: Whose holidays
        """
        start = to_date(date)
        require_one_of(jurisdiction, JURISDICTIONS, "jurisdiction")
        if isinstance(days, bool) or not isinstance(days, int) or abs(days) > MAX_DAYS:
            raise ValueError(f"days: expected a whole number from -{MAX_DAYS} to {MAX_DAYS}")
        return {"date": business_days_from(start, days, jurisdiction).isoformat()}

    # ----------------------------------------------------------------------------- tools that write

    def set_deadline(self, matter_id: str, event: Event, date: str) -> dict:
        """Set or move a matter's deadline.

        Args:
            matter_id: e.g. M-100
            event: What is due
            date: e.g. 2026-04-01
        """
        matter = get_entry(self._matters, matter_id, "matter")
        require_one_of(event, EVENTS, "event")
        matter.deadlines[event] = to_date(date).isoformat()
        return {"matter_id": matter.id, "event": event, "due": matter.deadlines[event]}

    def close_obligation(self, obligation_id: str) -> dict:
        """Record that an obligation was performed.

        Args:
            obligation_id: e.g. O-100
        """
        get_entry(self._performed, obligation_id, "obligation")
        self._performed[obligation_id] = True
        return {"obligation_id": obligation_id, "status": "performed"}

    def log_time(self, matter_id: str, hours: float) -> dict:
        """Log billable hours on a matter.

        Args:
            matter_id: e.g. M-100
            hours: In tenths, e.g. 1.5
        """
        matter = get_entry(self._matters, matter_id, "matter")
        if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= 24:
            raise ValueError("hours: expected a number above 0, at most 24")
        tenths = round(hours * 10)
        if abs(hours * 10 - tenths) > 1e-6:
            raise ValueError("hours: expected tenths of an hour, such as 1.5")
        matter.tenths += tenths
        return {"matter_id": matter.id, "logged": hours, "total": matter.tenths / 10}

    def flag_conflict(self, matter_id: str, conflicts_with: str) -> dict:
        """Flag a conflict between two matters.

        Args:
            matter_id: Matter to flag, e.g. M-100
            conflicts_with: The other matter
        """
        matter = get_entry(self._matters, matter_id, "matter")
        other = get_entry(self._matters, conflicts_with, "matter")
        if matter is other:
            raise ValueError(f"conflicts_with: {other.id} cannot conflict with itself")
        # A conflict is mutual, so both directions are the same entry.
        self._conflicts.add((min(matter.id, other.id), max(matter.id, other.id)))
        return {"matter_id": matter.id, "conflicts_with": other.id}

    def set_matter_status(self, matter_id: str, status: Status) -> dict:
        """Change a matter's status.

        Args:
            matter_id: e.g. M-100
            status: The new status
        """
        matter = get_entry(self._matters, matter_id, "matter")
        matter.status = require_one_of(status, STATUSES, "status")
        return {"matter_id": matter.id, "status": matter.status}
