// The viewer of a report's traces, part 4 of 4: the open traces, keys and other events, and the start.

async function fillPane(pane, row, loaded, differsAt) {
  const { trace: value, tools } = loaded;
  const trace = object(value);
  const outcome = object(trace.outcome);
  const maker = object(trace.teacher);
  const checks = Object.entries(object(outcome.checks)).map(
    ([check, passed]) =>
      `${check} ${passed ? "passed" : passed === null ? "not checked" : "failed"}`,
  );
  const facts = [
    ["made by", `${name("maker", row)}: ${asText(maker.model)}`],
    ["task", `${name("kind", row)}, ${name("template", row)}`],
    ["requests", tokensText(usageOf(trace))],
    ["ended", [asText(outcome.ended), ...checks].filter(Boolean).join(", ")],
    [
      "notes",
      flagsOf(row)
        .map((flag) =>
          flag === "images" && trace.grounding ? `images as ${asText(trace.grounding)}` : flag,
        )
        .join(", "),
    ],
  ];
  pane.replaceChildren(
    make("h3", { tabindex: "-1" }, columns.id[row] || "(no id)"),
    make("p", {}, badge(row)),
    make(
      "dl",
      {},
      ...facts
        .filter(([, text]) => text)
        .flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]),
    ),
    ...[expectedPart(trace.expected), toolsPart(list(tools[trace.tools]))].filter(Boolean),
    ...conversation(trace, tools, differsAt, 0),
  );
}

async function showOpen() {
  const viewer = byId("viewer");
  const [main, side] = [byId("pane-main"), byId("pane-side")];
  const { row, other } = open;
  viewer.classList.toggle("opened", row !== null);
  viewer.parentElement.classList.toggle("reading", row !== null);
  viewer.classList.toggle("paired", row !== null && other !== null);
  byId("pane-tools").hidden = row === null;
  side.hidden = row === null || other === null;
  if (row === null) {
    main.replaceChildren(make("p", { class: "quiet" }, "Choose a trace from the list."));
    return;
  }
  fillCompare(row, other);
  try {
    const [mine, theirs] = await Promise.all([load(row), other === null ? null : load(other)]);
    if (open.row !== row || open.other !== other) return;
    const at = theirs ? firstDifference(mine.trace, theirs.trace) : -1;
    fillPane(main, row, mine, at);
    if (theirs) fillPane(side, other, theirs, at);
    if (getComputedStyle(byId("back")).display !== "none") main.querySelector("h3").focus();
  } catch (error) {
    main.replaceChildren(
      make("p", { class: "failing", role: "alert" }, String(error.message || error)),
    );
  }
}

function firstDifference(one, two) {
  const [mine, theirs] = [list(object(one).messages), list(object(two).messages)];
  const bare = (message) =>
    JSON.stringify({
      ...object(message),
      tool_calls: list(object(message).tool_calls).map((call) => object(call).function),
      tool_call_id: null,
    });
  for (let place = 0; place < Math.max(mine.length, theirs.length); place++)
    if (bare(mine[place]) !== bare(theirs[place])) return place;
  return -1;
}

// The other traces of the task, then what the exam's models did with the same template.
function fillCompare(row, other) {
  const select = byId("compare");
  const task = taskOf(row);
  const same = (task ? rowsOfTask.get(task) || [] : []).filter((each) => each !== row);
  const related = [];
  for (let each = 0; each < rowCount && related.length < 20; each++)
    if (
      columns.template[each] === columns.template[row] &&
      columns.maker[each] !== columns.maker[row] &&
      taskOf(each) !== task
    )
      related.push(each);
  const option = (each) =>
    make(
      "option",
      { value: keyOf(each) },
      `${name("maker", each)}, ${name("state", each)}: ${columns.id[each]}`,
    );
  const groups = [
    ["The same task", same],
    ["Another task of the same template", related],
  ];
  select.replaceChildren(
    make("option", { value: "" }, "nothing"),
    ...groups
      .filter(([, rows]) => rows.length)
      .map(([label, rows]) => make("optgroup", { label }, ...rows.map(option))),
  );
  if (other !== null && ![...select.options].some((each) => each.value === keyOf(other)))
    select.append(option(other));
  select.value = other === null ? "" : keyOf(other);
}

// ------------------------------------------------------------------ events

function expandCalls() {
  const calls = [...byId("panes").querySelectorAll("details.call, details.reasoning")];
  const isAnyClosed = calls.some((details) => !details.open);
  for (const details of calls) details.open = isAnyClosed;
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  "]": () => turnPage(1),
  "[": () => turnPage(-1),
  "/": () => byId("filter-text").focus(),
  c: () => open.row !== null && byId("compare").focus(),
  e: expandCalls,
  Escape: () => open.row !== null && go({}),
  "?": () => byId("keys").showModal(),
};

function turnPage(by) {
  const first = firstShown + by * ROWS;
  if (first < 0 || first >= matching.length) return;
  firstShown = first;
  showList();
  byId("list").scrollTop = 0;
}

function listen() {
  for (const column of SELECTS)
    byId(`filter-${column}`).addEventListener("change", (event) =>
      go({ [column]: event.target.value, trace: open.row === null ? "" : keyOf(open.row) }),
    );
  let timer;
  byId("filter-text").addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => go({ text: event.target.value }), 200);
  });
  byId("filter-deep").addEventListener("change", (event) => {
    refilter();
    showList();
    if (event.target.checked && filters.text) searchConversations();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () =>
    go(Object.fromEntries(Object.keys(filters).map((key) => [key, ""]))),
  );
  byId("newer").addEventListener("click", () => turnPage(-1));
  byId("older").addEventListener("click", () => turnPage(1));
  byId("next").addEventListener("click", () => step(1));
  byId("previous").addEventListener("click", () => step(-1));
  byId("back").addEventListener("click", () => go({}));
  byId("expand").addEventListener("click", expandCalls);
  byId("show-keys").addEventListener("click", () => byId("keys").showModal());
  byId("compare").addEventListener("change", (event) =>
    go({ trace: keyOf(open.row), with: event.target.value }),
  );
  window.addEventListener("hashchange", () => readHash(false));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const action = KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

async function start() {
  index = await unpack(byId("index").textContent);
  ({ columns, names } = index);
  rowCount = columns.id.length;
  texts = new Array(rowCount);
  rowOfKey = new Map();
  rowsOfTask = new Map();
  for (let row = rowCount - 1; row >= 0; row--) {
    rowOfKey.set(`${name("maker", row)}/${columns.id[row]}`, row);
    const task = taskOf(row);
    if (rowsOfTask.has(task)) rowsOfTask.get(task).unshift(row);
    else rowsOfTask.set(task, [row]);
  }
  listen();
  readHash(true);
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  byId("count").textContent = `The traces cannot be shown: ${error.message || error}`;
});
