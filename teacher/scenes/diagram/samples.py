"""Invented diagrams of every variant, for tests and benchmarks, in many shapes and sizes."""

import random
from typing import Any

_PROCESSES = {
    "Contract approval": (
        ["Draft contract", "Check party data", "Review liability clause", "Obtain second opinion",
         "Negotiate changes", "Request board consent", "Prepare signature copy", "Sign contract",
         "Archive original", "Notify account team"],
        ["Value over 50,000 EUR?", "Standard terms used?", "Counterparty agrees?", "Risk acceptable?"],
        ["Legal", "Sales", "Finance"],
    ),
    "Incident handling": (
        ["Receive alert", "Open ticket", "Assign engineer", "Collect logs", "Reproduce fault",
         "Roll back release", "Apply patch", "Verify service", "Inform customers", "Write report"],
        ["Severity 1?", "Customer affected?", "Fix verified?", "Known problem?"],
        ["Support desk", "Engineering", "Communications"],
    ),
    "Invoice processing": (
        ["Scan invoice", "Match purchase order", "Check VAT number", "Post to ledger", "Ask for credit note",
         "Release payment", "Send remittance advice", "Update supplier file", "Close period"],
        ["Amount matches?", "Discount due?", "Supplier known?", "Paid on time?"],
        ["Accounts payable", "Purchasing", "Treasury"],
    ),
    "Release pipeline": (
        ["Push commit", "Run unit tests", "Build image", "Scan dependencies", "Deploy to staging",
         "Run load test", "Tag version", "Deploy to production", "Watch error rate", "Publish notes"],
        ["Tests green?", "Vulnerability found?", "Error rate below 0.5 %?", "Approved?"],
        ["Build", "Quality", "Operations"],
    ),
    "Claims handling": (
        ["Register claim", "Request documents", "Appoint surveyor", "Estimate damage", "Check cover",
         "Calculate deductible", "Draft settlement", "Pay claimant", "Seek recourse", "Close file"],
        ["Documents complete?", "Covered by policy?", "Fraud suspected?", "Third party liable?"],
        ["Intake", "Adjustment", "Payments"],
    ),
}  # fmt: skip
_BRANCHES = [
    ("yes", "no"),
    ("Yes", "No"),
    ("approved", "rejected"),
    ("pass", "fail"),
    ("true", "false"),
]
_ENDS = [
    "Stop",
    "Rejected",
    "Escalate to board",
    "Return to sender",
    "Cancelled",
    "Manual handling",
]
_GIVEN = ["Anna", "Bilal", "Chiara", "Dmitri", "Elif", "Farid", "Grete", "Hugo", "Ines", "Jonas", "Kaya",
          "Lena", "Marek", "Nadia", "Oskar", "Paula", "Rafael", "Sofia", "Tomas", "Yara"]  # fmt: skip
_FAMILY = ["Albers", "Brandt", "Costa", "Dahl", "Eriksen", "Fontaine", "Graf", "Horvath", "Ivanov", "Keller",
           "Lindqvist", "Moreau", "Novak", "Okafor", "Peeters", "Ricci", "Silva", "Tanaka", "Weber"]  # fmt: skip
_UNITS = ["Finance", "Legal", "Operations", "Research", "Sales", "People", "Purchasing", "Quality",
          "Logistics", "IT", "Marketing", "Compliance"]  # fmt: skip
_RANKS = ["Head of", "Team lead", "Deputy,", "Analyst,", "Officer,", "Specialist,"]
_FIRMS = [
    "Holding", "Beteiligungs", "Energy", "Logistics", "Digital", "Real Estate", "Services", "Trading",
]  # fmt: skip
_FORMS = ["AG", "GmbH", "S.A.", "Ltd", "B.V.", "SE", "S.r.l."]
_DIALOGUES = {
    "Order to delivery": (
        ["Customer", "Web shop", "Payment service", "Warehouse", "Carrier", "Accounting"],
        ["place order", "reserve stock", "authorise 249.00 EUR", "authorised", "stock reserved",
         "confirm order 4711", "pick list", "hand over parcel", "tracking number", "send invoice",
         "acknowledge receipt", "request refund", "update balance", "check address"],
    ),
    "Sign-in with second factor": (
        ["Browser", "Gateway", "Identity provider", "Directory", "Message service"],
        ["GET /login", "redirect 302", "user name and password", "look up account", "account active",
         "send code", "code 6 digits", "verify code", "issue token", "200 OK", "refresh token",
         "401 Unauthorized", "log attempt"],
    ),
    "Closing of a share purchase": (
        ["Seller", "Buyer", "Notary", "Escrow agent", "Register"],
        ["disclosure letter", "pay purchase price", "confirm receipt", "sign transfer deed",
         "file new shareholder list", "release escrow", "closing memorandum", "certified copy",
         "waive condition 4.2", "registration notice"],
    ),
    "Sensor data path": (
        ["Sensor", "Edge node", "Broker", "Stream job", "Database", "Dashboard"],
        ["reading 21.4 °C", "publish batch", "ack", "aggregate 5 min", "write rows", "query last day",
         "412 rows", "alarm threshold", "subscribe", "retry after 30 s", "calibrate"],
    ),
}  # fmt: skip
_CLAUSES = ["Definitions", "Scope of services", "Fees", "Payment term", "Warranties", "Indemnity",
            "Limitation of liability", "Insurance", "Confidentiality", "Data protection", "Term",
            "Termination for cause", "Force majeure", "Assignment", "Governing law", "Dispute resolution",
            "Notices", "Audit rights", "Change control", "Service credits"]  # fmt: skip
_RELATIONS = ["subject to", "refers to", "defined in", "overrides", "survives", "exception to"]


def example(rng: random.Random) -> dict[str, Any]:
    """The data of a diagram: any variant, 3 to 16 nodes."""
    return rng.choice([_flow, _organisation, _ownership, _sequence, _dependency])(rng)


def _flow(rng: random.Random) -> dict[str, Any]:
    title = rng.choice(list(_PROCESSES))
    steps, questions, units = _PROCESSES[title]
    count = rng.randint(3, 8)
    path = [steps[i] for i in sorted(rng.sample(range(len(steps)), count))]
    for question in rng.sample(questions, rng.randint(1, min(3, count - 2))):
        path.insert(rng.randint(1, len(path) - 1), question)
    nodes = {f"n{i}": label for i, label in enumerate(path, 1)}
    ids = list(nodes)
    stops = rng.sample(_ENDS, len(_ENDS))
    yes, no = rng.choice(_BRANCHES)
    edges = []
    for place, (node, following) in enumerate(zip(ids, ids[1:], strict=False)):
        asks = nodes[node].endswith("?")
        edges.append([node, following, yes if asks else ""])
        if not asks:
            continue
        if rng.random() < 0.4:
            other = f"x{place}"
            nodes[other] = stops.pop()
        elif rng.random() < 0.5 and place > 0:
            other = ids[rng.randrange(place)]
        else:
            other = rng.choice(ids[place + 2 :] or [ids[0]])
        edges.append([node, other, no])
    data = {"variant": "flow", "title": title, "nodes": nodes, "edges": edges}
    if rng.random() < 0.3:
        cut = rng.randint(1, len(ids) - 1)
        one, two = rng.sample(units, 2)
        data["groups"] = {one: ids[:cut], two: ids[cut:]}
    return data


def _organisation(rng: random.Random) -> dict[str, Any]:
    people = [f"{rng.choice(_GIVEN)} {name}" for name in rng.sample(_FAMILY, len(_FAMILY))]
    named = rng.random() < 0.6
    nodes: dict[str, str] = {}
    edges = []

    def add(role: str, above: str | None) -> str:
        node = f"p{len(nodes) + 1}"
        nodes[node] = f"{role}\n{people.pop()}" if named else role
        if above:
            edges.append([above, node, ""])
        return node

    top = add(rng.choice(["Managing director", "Chief executive", "Chair of the board"]), None)
    groups = {}
    for unit in rng.sample(_UNITS, rng.randint(2, 4)):
        head = add(f"Head of {unit}", top)
        staff = [add(f"{rank} {unit}", head) for rank in rng.sample(_RANKS[1:], rng.randint(0, 3))]
        groups[unit] = [head, *staff]
    data = {
        "variant": "organisation",
        "title": f"Organisation as of {rng.randint(1, 28)} {rng.choice(['March', 'June', 'October'])}"
        f" {rng.randint(2019, 2026)}",
        "nodes": nodes,
        "edges": edges,
    }
    if rng.random() < 0.2:
        data["groups"] = groups
    return data


def _ownership(rng: random.Random) -> dict[str, Any]:
    name = rng.choice(_FAMILY)
    firms = [
        f"{name} {firm} {rng.choice(_FORMS)}" for firm in rng.sample(_FIRMS, rng.randint(3, 7))
    ]
    nodes = {f"c{i}": firm for i, firm in enumerate(firms)}
    edges = []
    for i in range(1, len(firms)):
        parents = rng.sample(range(i), min(i, rng.choice([1, 1, 1, 2])))
        most = 100 // len(parents)
        edges += [[f"c{p}", f"c{i}", f"{rng.randint(10, most)} %"] for p in sorted(parents)]
    return {
        "variant": "organisation", "title": f"Shareholdings of the {name} group", "nodes": nodes, "edges": edges,
    }  # fmt: skip


def _sequence(rng: random.Random) -> dict[str, Any]:
    title = rng.choice(list(_DIALOGUES))
    names, messages = _DIALOGUES[title]
    actors = [names[i] for i in sorted(rng.sample(range(len(names)), rng.randint(2, len(names))))]
    nodes = {f"a{i}": actor for i, actor in enumerate(actors)}
    ids = list(nodes)
    edges, at = [], 0
    for message in rng.sample(messages, rng.randint(4, len(messages))):
        near = [i for i in range(len(ids)) if i != at and abs(i - at) <= 2]
        to = at if rng.random() < 0.1 else rng.choice(near)
        edges.append([ids[at], ids[to], message])
        at = to
    return {"variant": "sequence", "title": title, "nodes": nodes, "edges": edges}


def _dependency(rng: random.Random) -> dict[str, Any]:
    names = rng.sample(_CLAUSES, rng.randint(4, 10))
    numbers = sorted(rng.sample(range(1, 24), len(names)))
    word = rng.choice(["Clause ", "§ ", "Section ", ""])
    nodes = {f"c{n}": f"{word}{n} {name}" for n, name in zip(numbers, names, strict=True)}
    ids = list(nodes)
    labelled = rng.random() < 0.6
    edges = []
    for place in range(1, len(ids)):
        for target in rng.sample(range(place), min(place, rng.choice([1, 1, 1, 2]))):
            edges.append([ids[place], ids[target], rng.choice(_RELATIONS) if labelled else ""])
    agreement = rng.choice(["Service", "Licence", "Supply", "Framework", "Lease"])
    title = f"{agreement} agreement {rng.randint(100, 999)}: how clauses depend on each other"
    return {"variant": "dependency", "title": title, "nodes": nodes, "edges": edges}
