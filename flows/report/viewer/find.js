// The viewer of a report's traces, part 2 of 4: filters, the list in pages, and the address that names both.

const ROWS = 50; // of the list at a time
const SELECTS = ["maker", "state", "reason", "kind", "template", "flag"];

const filters = { maker: "", state: "", reason: "", kind: "", template: "", flag: "", text: "" };
let matching = [];
let firstShown = 0;
let open = { row: null, other: null };
let hits = null; // rows whose conversations have the words, while the whole text is searched
let search = 0;

function accepts(column, row) {
  const wanted = filters[column];
  if (!wanted) return true;
  if (column === "flag") return Boolean(columns.flags[row] & (1 << index.flags.indexOf(wanted)));
  return name(column, row) === wanted;
}

function words() {
  return filters.text.toLowerCase().split(/\s+/).filter(Boolean);
}

function textOf(row) {
  return (texts[row] ||=
    `${columns.id[row]} ${columns.request[row]} ${columns.detail[row]}`.toLowerCase());
}

function filter() {
  const wanted = words();
  const counts = Object.fromEntries(SELECTS.map((column) => [column, new Map()]));
  const add = (column, row) => {
    const values = column === "flag" ? flagsOf(row) : [name(column, row)];
    for (const value of values) counts[column].set(value, (counts[column].get(value) || 0) + 1);
  };
  matching = [];
  for (let row = 0; row < rowCount; row++) {
    if (hits ? !hits.has(row) : !wanted.every((word) => textOf(row).includes(word))) continue;
    const failing = SELECTS.filter((column) => !accepts(column, row));
    if (failing.length === 0) {
      matching.push(row);
      for (const column of SELECTS) add(column, row);
    } else if (failing.length === 1) add(failing[0], row);
  }
  for (const column of SELECTS) fillSelect(column, counts[column]);
  firstShown = 0;
}

function fillSelect(column, counts) {
  const select = byId(`filter-${column}`);
  const values = (column === "flag" ? index.flags : names[column]).filter((value) => value !== "");
  const shown = values.filter((value) => counts.get(value) || value === filters[column]);
  if (column !== "maker" && column !== "state") shown.sort();
  select.replaceChildren(
    make("option", { value: "" }, "all"),
    ...shown.map((value) =>
      make("option", { value }, `${value} (${count(counts.get(value) || 0)})`),
    ),
  );
  select.value = filters[column];
}

// Filters anew, and ends a search of conversations.
function refilter() {
  hits = null;
  search++;
  byId("search-progress").textContent = "";
  filter();
}

// Reads every conversation that the other filters accept, until `refilter` ends it.
async function searchConversations() {
  const own = search;
  const wanted = words();
  const progress = byId("search-progress");
  if (!wanted.length) return;
  const others = SELECTS.filter((column) => filters[column]);
  const found = new Set();
  for (let number = 0; number < index.first_rows.length; number++) {
    const first = index.first_rows[number];
    const end = index.first_rows[number + 1] ?? rowCount;
    let candidates = [];
    for (let row = first; row < end; row++)
      if (others.every((column) => accepts(column, row))) candidates.push(row);
    if (!candidates.length) continue;
    const { traces } = await page(number);
    if (own !== search) return;
    for (const row of candidates) {
      const text = `${textOf(row)} ${spoken(traces[row - first])}`.toLowerCase();
      if (wanted.every((word) => text.includes(word))) found.add(row);
    }
    progress.textContent = `searched ${count(end)} of ${count(rowCount)} traces, found ${count(found.size)}`;
  }
  hits = found;
  filter();
  showList();
}

// All that a conversation says, sub-agents included.
function spoken(trace, depth = 0) {
  const parts = [];
  for (const message of list(object(trace).messages)) {
    const { content, reasoning_content: reasoning, tool_calls: calls } = object(message);
    if (typeof content === "string") parts.push(content);
    for (const part of list(content)) parts.push(object(part).text);
    parts.push(reasoning);
    for (const call of list(calls))
      parts.push(object(object(call).function).name, object(object(call).function).arguments);
  }
  if (depth < DEEPEST)
    for (const child of list(object(trace).children)) parts.push(spoken(child, depth + 1));
  return parts.filter((part) => typeof part === "string").join("\n");
}

// ------------------------------------------------------------------ list

function showList() {
  const end = Math.min(firstShown + ROWS, matching.length);
  byId("count").textContent = matching.length
    ? `${count(firstShown + 1)} to ${count(end)} of ${count(matching.length)} traces`
    : "No trace passes these filters.";
  byId("rows").replaceChildren(...matching.slice(firstShown, end).map(listItem));
  byId("newer").disabled = firstShown === 0;
  byId("older").disabled = end >= matching.length;
}

function listItem(row) {
  const link = make(
    "a",
    { href: hashOf({ trace: keyOf(row) }), "aria-current": row === open.row ? "true" : undefined },
    badge(row),
    make("span", { class: "what" }, columns.request[row] || columns.id[row] || "(no request)"),
    make(
      "span",
      { class: "quiet" },
      [
        names.maker.length > 1 ? name("maker", row) : "",
        name("template", row),
        `${columns.turns[row]} ${columns.turns[row] === 1 ? "turn" : "turns"}`,
        `${count(columns.tokens[row])} tokens`,
        ...flagsOf(row),
      ]
        .filter(Boolean)
        .join(" · "),
    ),
  );
  return make("li", {}, link);
}

// ------------------------------------------------------------------ address

function hashOf(changes) {
  const values = new URLSearchParams();
  for (const [key, value] of Object.entries({ ...filters, trace: "", with: "", ...changes }))
    if (value) values.set(key, value);
  return `#${values}`;
}

function rowOf(key) {
  if (!key) return null;
  const row = key.startsWith("@") ? Number(key.slice(1)) : rowOfKey.get(key);
  return Number.isInteger(row) && row >= 0 && row < rowCount ? row : null;
}

// Anchors of the page's sections are no filters.
function readHash(first) {
  const text = location.hash.slice(1);
  if (text && !text.includes("=")) return;
  const values = new URLSearchParams(text);
  const before = JSON.stringify(filters);
  for (const key of Object.keys(filters)) filters[key] = values.get(key) || "";
  byId("filter-text").value = filters.text;
  const changed = first || before !== JSON.stringify(filters);
  if (changed) refilter();
  const row = rowOf(values.get("trace"));
  const other = rowOf(values.get("with"));
  const moved = row !== open.row || other !== open.other;
  open = { row, other };
  const place = matching.indexOf(row);
  if (place >= 0) firstShown = place - (place % ROWS);
  if (changed || moved || first) showList();
  if (changed && filters.text && byId("filter-deep").checked) searchConversations();
  if (moved || first) showOpen();
  if (text && (changed || (moved && row !== null))) byId("traces").scrollIntoView();
}

const go = (changes) => {
  location.hash = hashOf(changes);
};

function step(by) {
  if (!matching.length) return;
  const place = matching.indexOf(open.row);
  const next = place < 0 ? firstShown : Math.min(Math.max(place + by, 0), matching.length - 1);
  go({ trace: keyOf(matching[next]) });
}
