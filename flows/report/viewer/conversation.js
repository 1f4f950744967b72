// The viewer of a report's traces, part 3 of 4: one trace, with its calls, images, failed check and sub-agents.

const LONG = 3000; // characters of a text before it is cut
const LONG_PROMPT = 600; // characters of a system message before it is folded: it is the same in most traces
const DEEPEST_INDENT = 40; // levels of JSON
const IMAGE = /^[0-9a-f]{64}$/;

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
  // Arguments may be nested without end.
  const line = () => parts.push(`\n${"  ".repeat(Math.min(depth, DEEPEST_INDENT))}`);
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
      const kind =
        token[0] === '"'
          ? next === ":"
            ? "key"
            : "text"
          : /[-\d]/.test(token[0])
            ? "number"
            : "word";
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

const asText = (value) =>
  typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value);

// ------------------------------------------------------------------ a conversation

function usageOf(trace, depth = 0) {
  const total = { prompt: 0, cached: 0, completion: 0, seconds: 0 };
  for (const call of list(trace.calls)) {
    const usage = object(object(call).usage);
    total.prompt += Number(usage.prompt_tokens) || 0;
    total.cached += Number(usage.cached_tokens) || 0;
    total.completion += Number(usage.completion_tokens) || 0;
    total.seconds += Number(object(call).seconds) || 0;
  }
  if (depth < DEEPEST)
    for (const child of list(trace.children))
      for (const [key, value] of Object.entries(usageOf(object(child), depth + 1)))
        total[key] += value;
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
    return {
      at: last,
      name: asText(outcome.ended),
      text: outcome.error ? asText(outcome.error) : "the episode ended before an answer",
    };
  const checks = object(outcome.checks);
  if (checks.answer === false)
    return { at: last, name: "wrong_answer", text: wanted || "the answer does not pass its check" };
  if (checks.state === false)
    return {
      at: last,
      name: "wrong_state",
      text: "the state of the world is not that of the solution",
    };
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
        {
          class: `message ${["system", "user", "assistant", "tool"].includes(role) ? role : ""}${isAt ? " at" : ""}`,
          "aria-label": `${role}, message ${place + 1}`,
        },
        make(
          "p",
          { class: "role" },
          make("b", {}, role),
          request
            ? ` ${count(object(request.usage).completion_tokens || 0)} tokens, ${(Number(request.seconds) || 0).toFixed(1)} s`
            : "",
          ...notes.map((note) => make("span", { class: "tag" }, note)),
        ),
        ...body(message, images, isAt),
        isAt
          ? make(
              "p",
              { class: "failing", role: "note" },
              make("b", {}, failed.name),
              ` ${failed.text}`,
            )
          : null,
      ),
    );
  });
  if (failed && !(failed.at >= 0 && failed.at < messages.length))
    parts.push(
      make("p", { class: "failing", role: "note" }, make("b", {}, failed.name), ` ${failed.text}`),
    );
  const children = list(trace.children);
  if (outcome.swarm) parts.push(make("p", { class: "quiet" }, swarmText(object(outcome.swarm))));
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
    ...detected
      .filter((each) => turn && each.step === turn)
      .map((each) => `${asText(each.action)}: ${asText(each.name)}`),
  ];
}

function body(message, images, isAt) {
  const parts = [];
  if (message.reasoning_content)
    parts.push(
      make(
        "details",
        { class: "reasoning", open: isAt },
        make("summary", {}, "reasoning"),
        block(asText(message.reasoning_content), ""),
      ),
    );
  if (typeof message.content === "string") {
    const { content } = message;
    if (message.role === "system" && content.length > LONG_PROMPT)
      parts.push(
        make(
          "details",
          { open: isAt },
          make("summary", {}, `${content.slice(0, 80)}… (${count(content.length)} characters)`),
          block(content, ""),
        ),
      );
    else if (content) parts.push(block(content, ""));
  } else
    for (const part of list(message.content)) {
      if (object(part).type === "image") parts.push(image(images.next().value));
      else if (object(part).type === "text") parts.push(block(asText(part.text), ""));
      else parts.push(block(asText(part), ""));
    }
  for (const call of list(message.tool_calls))
    parts.push(toolCall(object(object(call).function), isAt));
  return parts;
}

function image(digest) {
  const url = typeof digest === "string" && IMAGE.test(digest) ? index.images[digest] : undefined;
  if (!url) return make("p", { class: "quiet" }, "(the image is not in the run's directory)");
  return make("img", {
    src: url,
    alt: `image ${digest.slice(0, 8)} of the conversation`,
    loading: "lazy",
  });
}

function toolCall(called, isOpen) {
  const text = asText(called.arguments);
  const brief = text.replace(/\s+/g, " ");
  const details = make(
    "details",
    { class: "call", open: isOpen },
    make(
      "summary",
      {},
      make("b", {}, asText(called.name) || "(no name)"),
      make("code", {}, ` ${brief.length > 120 ? `${brief.slice(0, 120)}…` : brief}`),
    ),
  );
  details.append(block(text || "{}", "arguments"));
  if (json(text || "{}") === null)
    details.append(make("p", { class: "failing" }, "The arguments are not JSON."));
  return details;
}

const agentText = (agent) =>
  agent.name ? `${asText(agent.name)} in stage ${count(agent.stage)}, ` : "";

const swarmText = (swarm) =>
  `${count(swarm.agents)} sub-agents in ${count(swarm.stages)} stages: ${count(swarm.critical_steps)} critical steps` +
  ` of ${count(swarm.serial_steps)}, ${count(swarm.used)} of ${count(swarm.answered)} results used`;

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
          make(
            "span",
            { class: `badge ${verdict ? "failed" : "passed"}` },
            verdict ? verdict.name : "passed",
          ),
          make(
            "span",
            { class: "quiet" },
            ` ${agentText(object(child.agent))}${list(child.messages).length} messages, ${tokensText(usage)}${below ? `, ${below} sub-agents` : ""}`,
          ),
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
    ...list(plan).map((call) =>
      toolCall(
        { name: object(call).tool, arguments: JSON.stringify(object(call).arguments) },
        false,
      ),
    ),
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
