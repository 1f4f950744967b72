// The viewer of a report's traces, part 1 of 4: elements of the page, and the data.
//
// flows/report/html.py puts the four parts into one function. Everything that a model or a pack wrote reaches the page
// as the text of a text node, never as HTML. The data is what flows/report/pages.py wrote: an index in the page, and
// pages of traces in the page or in scripts beside it.

const NONCE = document.currentScript.nonce;
const CACHED_PAGES = 12;
const DEEPEST = 20; // levels of sub-agents

const byId = (id) => document.getElementById(id);
const list = (value) => (Array.isArray(value) ? value : []);
const object = (value) =>
  value && typeof value === "object" && !Array.isArray(value) ? value : {};
const count = (number) => Number(number).toLocaleString("en");

// An element; children are elements or values that become text.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick" || name === "ontoggle") element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.filter((child) => child !== null && child !== undefined && child !== ""),
  );
  return element;
}

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
      reject(
        new Error(
          `${file} is not beside this report: write the report again, or copy its directory with it`,
        ),
      );
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
const badge = (row) => {
  const [state, reason] = [name("state", row), name("reason", row)];
  return make("span", { class: `badge ${state}` }, reason ? `${state}: ${reason}` : state);
};
const flagsOf = (row) => index.flags.filter((_, bit) => columns.flags[row] & (1 << bit));
