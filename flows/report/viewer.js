// The viewer of a report's traces: filters, a list in pages, one or two conversations.
//
// Everything that a model or a pack wrote reaches the page as the text of a text node, never as HTML. The data is what
// flows/report/pages.py wrote: an index in the page, and pages of traces in the page or in scripts beside it.
"use strict";
(() => {
  const NONCE = document.currentScript.nonce;
  const ROWS = 50; // of the list at a time
  const LONG = 3000; // characters of a text before it is cut
  const LONG_PROMPT = 600; // characters of a system message before it is folded: it is the same in most traces
  const CACHED_PAGES = 12;
  const DEEPEST = 20; // levels of sub-agents
  const SELECTS = ["maker", "state", "reason", "kind", "template", "flag"];
  const IMAGE = /^[0-9a-f]{64}$/;

  const byId = (id) => document.getElementById(id);
  const list = (value) => (Array.isArray(value) ? value : []);
  const object = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});
  const count = (number) => Number(number).toLocaleString("en");

  // An element; children are elements or values that become text.
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "onclick" || name === "ontoggle") element.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }

  // ------------------------------------------------------------------ data

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  let index, columns, names, rowCount, rowOfKey, rowsOfTask, texts;
  const pages = new Map(); // number -> promise of a page; the last used is the last
  const waiting = new Map();
  window.stillhousePage = (number, text) => waiting.get(number)?.(text);

  function packedPage(number) {
    const inside = byId(`page-${number}`);
    if (inside) return Promise.resolve(inside.textContent);
    const file = `${index.directory}/traces-${number}.js`;
    return new Promise((resolve, reject) => {
      const script = make("script", { src: file.split("/").map(encodeURIComponent).join("/") });
      script.nonce = NONCE;
      waiting.set(number, resolve);
      script.addEventListener("load", () => script.remove());
      script.addEventListener("error", () => {
        script.remove();
        reject(new Error(`${file} is not beside this report: write the report again, or copy its directory with it`));
      });
      document.head.append(script);
    });
  }

  function page(number) {
    let promise = pages.get(number);
    pages.delete(number);
    promise ||= packedPage(number).then(unpack);
    promise.catch(() => pages.delete(number));
    pages.set(number, promise);
    if (pages.size > CACHED_PAGES) pages.delete(pages.keys().next().value);
    return promise;
  }

  function pageOf(row) {
    let low = 0;
    let high = index.first_rows.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (index.first_rows[middle] <= row) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async function load(row) {
    const number = pageOf(row);
    const { tools, traces } = await page(number);
    return { trace: traces[row - index.first_rows[number]], tools };
  }

  const name = (column, row) => names[column][columns[column][row]];
  const taskOf = (row) => columns.id[row].slice(0, columns.id[row].lastIndexOf("/"));
  const keyOf = (row) => {
    const key = `${name("maker", row)}/${columns.id[row]}`;
    return rowOfKey.get(key) === row ? key : `@${row}`;
  };
  const flagsOf = (row) => index.flags.filter((_, bit) => columns.flags[row] & (1 << bit));

  // ------------------------------------------------------------------ filters

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
    return (texts[row] ||= `${columns.id[row]} ${columns.request[row]} ${columns.detail[row]}`.toLowerCase());
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
      ...shown.map((value) => make("option", { value }, `${value} (${count(counts.get(value) || 0)})`)),
    );
    select.value = filters[column];
  }

  // Reads every conversation that the other filters accept. A later search ends it.
  async function searchConversations() {
    const own = ++search;
    hits = null;
    const wanted = words();
    const progress = byId("search-progress");
    progress.textContent = "";
    if (!wanted.length) return;
    filter();
    const others = SELECTS.filter((column) => filters[column]);
    const found = new Set();
    for (let number = 0; number < index.first_rows.length; number++) {
      const first = index.first_rows[number];
      const end = index.first_rows[number + 1] ?? rowCount;
      let candidates = [];
      for (let row = first; row < end; row++) if (others.every((column) => accepts(column, row))) candidates.push(row);
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
      for (const call of list(calls)) parts.push(object(object(call).function).name, object(object(call).function).arguments);
    }
    if (depth < DEEPEST) for (const child of list(object(trace).children)) parts.push(spoken(child, depth + 1));
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
    const state = name("state", row);
    const reason = name("reason", row);
    const link = make(
      "a",
      { href: hashOf({ trace: keyOf(row) }), "aria-current": row === open.row ? "true" : undefined },
      make("span", { class: `badge ${state}` }, reason ? `${state}: ${reason}` : state),
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
    for (const [key, value] of Object.entries({ ...filters, trace: "", with: "", ...changes })) if (value) values.set(key, value);
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
    if (changed) {
      hits = null;
      search++;
      byId("search-progress").textContent = "";
      filter();
    }
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

  // ------------------------------------------------------------------ JSON as text with colours

  const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[{}[\],:]|\s+|[^]/g;

  // Indents JSON and colours it; numbers and texts stay as they are written. null for a text that is no JSON.
  function json(text) {
    try {
      JSON.parse(text);
    } catch {
      return null;
    }
    const parts = [];
    let depth = 0;
    const line = () => parts.push(`\n${"  ".repeat(depth)}`);
    const tokens = text.match(TOKENS).filter((token) => token.trim());
    tokens.forEach((token, place) => {
      const next = tokens[place + 1];
      if (token === "{" || token === "[") {
        parts.push(token);
        if (next === "}" || next === "]") return;
        depth++;
        line();
      } else if (token === "}" || token === "]") {
        if (!/[{[]/.test(tokens[place - 1])) {
          depth--;
          line();
        }
        parts.push(token);
      } else if (token === ",") {
        parts.push(token);
        line();
      } else if (token === ":") parts.push(": ");
      else {
        const kind = token[0] === '"' ? (next === ":" ? "key" : "text") : /[-\d]/.test(token[0]) ? "number" : "word";
        parts.push(make("span", { class: `json-${kind}` }, token));
      }
    });
    return parts;
  }

  function block(text, kind) {
    const shown = text.length > LONG ? `${text.slice(0, LONG)}…` : text;
    const pre = make("pre", { class: kind, dir: "auto" });
    const fill = (value) => pre.replaceChildren(...(json(value) || [value]));
    fill(shown);
    if (shown === text) return pre;
    const button = make(
      "button",
      {
        type: "button",
        onclick: () => {
          fill(text);
          button.remove();
        },
      },
      `Show all ${count(text.length)} characters`,
    );
    return make("div", {}, pre, button);
  }

  const asText = (value) => (typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value));

  // ------------------------------------------------------------------ a conversation

  function usageOf(trace, depth = 0) {
    const total = { prompt: 0, cached: 0, completion: 0, seconds: 0 };
    for (const call of list(trace.calls)) {
      const usage = object(object(call).usage);
      total.prompt += Number(usage.prompt_tokens) || 0;
      total.cached += Number(usage.cached_tokens) || 0;
      total.completion += Number(usage.completion_tokens) || 0;
      total.seconds += Number(call.seconds) || 0;
    }
    if (depth < DEEPEST)
      for (const child of list(trace.children))
        for (const [key, value] of Object.entries(usageOf(object(child), depth + 1))) total[key] += value;
    return total;
  }

  const tokensText = (usage) =>
    `${count(usage.prompt)} prompt tokens${usage.cached ? ` (${count(usage.cached)} cached)` : ""}, ` +
    `${count(usage.completion)} in replies, ${usage.seconds.toFixed(1)} s`;

  // Where a failed check belongs, and its words.
  function failure(trace, expected) {
    const verdict = object(trace.verdict);
    const outcome = object(trace.outcome);
    const messages = list(trace.messages);
    const last = messages.length - 1;
    const answer = object(expected).answer;
    const wanted = answer ? `expected ${JSON.stringify(answer)}` : "";
    if (verdict.kept === false) {
      const at = Number.isInteger(verdict.message_index) ? verdict.message_index : last;
      const text = [asText(verdict.detail), verdict.reason === "wrong_answer" ? wanted : ""];
      return { at, name: asText(verdict.reason), text: text.filter(Boolean).join(": ") };
    }
    if (verdict.kept === true) return null;
    if (outcome.ended !== "answered")
      return { at: last, name: asText(outcome.ended), text: outcome.error ? asText(outcome.error) : "the episode ended before an answer" };
    const checks = object(outcome.checks);
    if (checks.answer === false) return { at: last, name: "wrong_answer", text: wanted || "the answer does not pass its check" };
    if (checks.state === false) return { at: last, name: "wrong_state", text: "the state of the world is not that of the solution" };
    return null;
  }

  function conversation(trace, tools, differsAt, depth) {
    const messages = list(trace.messages);
    const calls = list(trace.calls);
    const outcome = object(trace.outcome);
    const turns = messages.filter((message) => object(message).role === "assistant").length;
    const failed = failure(trace, trace.expected);
    const images = list(trace.images).values();
    const tags = tagsOf(outcome);
    let turn = 0;
    const parts = [];
    messages.forEach((value, place) => {
      const message = object(value);
      const role = asText(message.role) || "message";
      const isTurn = role === "assistant";
      const notes = tags(place, isTurn ? ++turn : 0);
      if (place === differsAt) notes.push("differs from here");
      const request = isTurn && calls.length === turns ? object(calls[turn - 1]) : null;
      const isAt = failed && failed.at === place;
      parts.push(
        make(
          "section",
          { class: `message ${["system", "user", "assistant", "tool"].includes(role) ? role : ""}${isAt ? " at" : ""}`, "aria-label": `${role}, message ${place + 1}` },
          make(
            "p",
            { class: "role" },
            make("b", {}, role),
            request ? ` ${count(object(request.usage).completion_tokens || 0)} tokens, ${(Number(request.seconds) || 0).toFixed(1)} s` : "",
            ...notes.map((note) => make("span", { class: "tag" }, note)),
          ),
          ...body(message, images, isAt),
          isAt ? make("p", { class: "failing", role: "note" }, make("b", {}, failed.name), ` ${failed.text}`) : null,
        ),
      );
    });
    if (failed && !(failed.at >= 0 && failed.at < messages.length))
      parts.push(make("p", { class: "failing", role: "note" }, make("b", {}, failed.name), ` ${failed.text}`));
    const children = list(trace.children);
    if (children.length && depth < DEEPEST) parts.push(subAgents(children, tools, depth));
    return parts;
  }

  function tagsOf(outcome) {
    const errors = new Set(list(outcome.tool_errors));
    const writes = new Set(list(outcome.unasked_writes));
    const detected = list(outcome.detected).map(object);
    return (place, turn) => [
      ...(errors.has(place) ? ["tool error"] : []),
      ...(writes.has(place) ? ["unasked write"] : []),
      ...detected.filter((each) => turn && each.step === turn).map((each) => `${asText(each.action)}: ${asText(each.name)}`),
    ];
  }

  function body(message, images, isAt) {
    const parts = [];
    if (message.reasoning_content)
      parts.push(make("details", { class: "reasoning", open: isAt }, make("summary", {}, "reasoning"), block(asText(message.reasoning_content), "")));
    if (typeof message.content === "string") {
      const { content } = message;
      if (message.role === "system" && content.length > LONG_PROMPT)
        parts.push(make("details", { open: isAt }, make("summary", {}, `${content.slice(0, 80)}… (${count(content.length)} characters)`), block(content, "")));
      else if (content) parts.push(block(content, ""));
    } else
      for (const part of list(message.content)) {
        if (object(part).type === "image") parts.push(image(images.next().value));
        else if (object(part).type === "text") parts.push(block(asText(part.text), ""));
        else parts.push(block(asText(part), ""));
      }
    for (const call of list(message.tool_calls)) parts.push(toolCall(object(object(call).function), isAt));
    return parts;
  }

  function image(digest) {
    const url = typeof digest === "string" && IMAGE.test(digest) ? index.images[digest] : undefined;
    if (!url) return make("p", { class: "quiet" }, "(the image is not in the run's directory)");
    return make("img", { src: url, alt: `image ${digest.slice(0, 8)} of the conversation`, loading: "lazy" });
  }

  function toolCall(called, isOpen) {
    const text = asText(called.arguments);
    const brief = text.replace(/\s+/g, " ");
    const details = make(
      "details",
      { class: "call", open: isOpen },
      make("summary", {}, make("b", {}, asText(called.name) || "(no name)"), make("code", {}, ` ${brief.length > 120 ? `${brief.slice(0, 120)}…` : brief}`)),
    );
    details.append(block(text || "{}", "arguments"));
    if (json(text || "{}") === null) details.append(make("p", { class: "failing" }, "The arguments are not JSON."));
    return details;
  }

  // The sub-agents of a swarm as a tree: each opens in place, with its own sub-agents inside.
  function subAgents(children, tools, depth) {
    return make(
      "ul",
      { class: "tree", "aria-label": `${children.length} sub-agents` },
      ...children.map((value, place) => {
        const child = object(value);
        const verdict = failure(child, null);
        const usage = usageOf(child);
        const below = list(child.children).length;
        let filled = false;
        const details = make(
          "details",
          {
            ontoggle: () => {
              if (filled) return;
              filled = true;
              details.append(...conversation(child, tools, -1, depth + 1));
            },
          },
          make(
            "summary",
            {},
            make("b", {}, `sub-agent ${place + 1}`),
            ` ${asText(child.id)} `,
            make("span", { class: `badge ${verdict ? "failed" : "passed"}` }, verdict ? verdict.name : "passed"),
            make("span", { class: "quiet" }, ` ${list(child.messages).length} messages, ${tokensText(usage)}${below ? `, ${below} sub-agents` : ""}`),
          ),
        );
        return make("li", {}, details);
      }),
    );
  }

  function expectedPart(expected) {
    const { plan, reply, answer } = object(expected);
    if (!plan) return null;
    return make(
      "details",
      { class: "expected" },
      make("summary", {}, "What was expected"),
      ...list(plan).map((call) => toolCall({ name: object(call).tool, arguments: JSON.stringify(object(call).arguments) }, false)),
      list(plan).length ? null : make("p", { class: "quiet" }, "No call."),
      reply ? block(asText(reply), "") : null,
      answer ? make("p", {}, "Checked answer: ", make("code", {}, JSON.stringify(answer))) : null,
    );
  }

  function toolsPart(offered) {
    if (!offered.length) return null;
    return make(
      "details",
      {},
      make("summary", {}, `${offered.length} tools were offered`),
      make(
        "ul",
        {},
        ...offered.map((tool) => {
          const called = object(object(tool).function);
          return make("li", {}, make("b", {}, asText(called.name)), ` ${asText(called.description)}`);
        }),
      ),
    );
  }

  // ------------------------------------------------------------------ panes

  async function fillPane(pane, row, loaded, differsAt) {
    const { trace: value, tools } = loaded;
    const trace = object(value);
    const outcome = object(trace.outcome);
    const maker = object(trace.teacher);
    const state = name("state", row);
    const reason = name("reason", row);
    const checks = Object.entries(object(outcome.checks)).map(([check, passed]) => `${check} ${passed ? "passed" : passed === null ? "not checked" : "failed"}`);
    const facts = [
      ["made by", `${name("maker", row)}: ${asText(maker.model)}`],
      ["task", `${name("kind", row)}, ${name("template", row)}`],
      ["requests", tokensText(usageOf(trace))],
      ["ended", [asText(outcome.ended), ...checks].filter(Boolean).join(", ")],
      ["notes", flagsOf(row).map((flag) => (flag === "images" && trace.grounding ? `images as ${asText(trace.grounding)}` : flag)).join(", ")],
    ];
    pane.replaceChildren(
      make("h3", { tabindex: "-1" }, columns.id[row] || "(no id)"),
      make("p", {}, make("span", { class: `badge ${state}` }, reason ? `${state}: ${reason}` : state)),
      make("dl", {}, ...facts.filter(([, text]) => text).flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)])),
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
      main.replaceChildren(make("p", { class: "failing", role: "alert" }, String(error.message || error)));
    }
  }

  function firstDifference(one, two) {
    const [mine, theirs] = [list(object(one).messages), list(object(two).messages)];
    const bare = (message) => JSON.stringify({ ...object(message), tool_calls: list(object(message).tool_calls).map((call) => object(call).function), tool_call_id: null });
    for (let place = 0; place < Math.max(mine.length, theirs.length); place++) if (bare(mine[place]) !== bare(theirs[place])) return place;
    return -1;
  }

  // The other traces of the task, then what the exam's models did with the same template.
  function fillCompare(row, other) {
    const select = byId("compare");
    const task = taskOf(row);
    const same = (task ? rowsOfTask.get(task) || [] : []).filter((each) => each !== row);
    const related = [];
    for (let each = 0; each < rowCount && related.length < 20; each++)
      if (columns.template[each] === columns.template[row] && columns.maker[each] !== columns.maker[row] && taskOf(each) !== task) related.push(each);
    const option = (each) => make("option", { value: keyOf(each) }, `${name("maker", each)}, ${name("state", each)}: ${columns.id[each]}`);
    const groups = [
      ["The same task", same],
      ["Another task of the same template", related],
    ];
    select.replaceChildren(
      make("option", { value: "" }, "nothing"),
      ...groups.filter(([, rows]) => rows.length).map(([label, rows]) => make("optgroup", { label }, ...rows.map(option))),
    );
    if (other !== null && ![...select.options].some((each) => each.value === keyOf(other))) select.append(option(other));
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
      byId(`filter-${column}`).addEventListener("change", (event) => go({ [column]: event.target.value, trace: open.row === null ? "" : keyOf(open.row) }));
    let timer;
    byId("filter-text").addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => go({ text: event.target.value }), 200);
    });
    byId("filter-deep").addEventListener("change", (event) => {
      hits = null;
      search++;
      byId("search-progress").textContent = "";
      filter();
      showList();
      if (event.target.checked && filters.text) searchConversations();
    });
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("clear").addEventListener("click", () => go(Object.fromEntries(Object.keys(filters).map((key) => [key, ""]))));
    byId("newer").addEventListener("click", () => turnPage(-1));
    byId("older").addEventListener("click", () => turnPage(1));
    byId("next").addEventListener("click", () => step(1));
    byId("previous").addEventListener("click", () => step(-1));
    byId("back").addEventListener("click", () => go({}));
    byId("expand").addEventListener("click", expandCalls);
    byId("show-keys").addEventListener("click", () => byId("keys").showModal());
    byId("compare").addEventListener("change", (event) => go({ trace: keyOf(open.row), with: event.target.value }));
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
})();
