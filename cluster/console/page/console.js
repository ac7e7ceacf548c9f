// Listens to the stream of pictures, shows them, explains a request that is clicked, and sends acts under the key given.
import { MOVED, Picture, count, inWords, make, set } from "/console/tank.js";

const ROWS = 5, SAID_MS = 6000, RETRY_MS = 1000, SURE_MS = 3000;
const at = (id) => document.getElementById(id);
let key = "", latest = null, chosen = "", keyNews = () => {};

const picture = new Picture(at("tanks"), at("paths"), choose, { drain, assign });

// -- words to and from the frontend

function headers() {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function ask(path, options = {}) {
  const reply = await fetch(path, { ...options, headers: headers() });
  const tree = await reply.json();
  if (!reply.ok) throw new Error(tree.error.message);
  return tree;
}

function say(words) {
  set(at("said"), words);
  at("said").classList.add("on");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => at("said").classList.remove("on"), SAID_MS);
}

async function act(tree) {
  try {
    say((await ask("/console/act", { method: "POST", body: JSON.stringify(tree) })).words);
  } catch (error) {
    say(error.message);
  }
}

async function listen() {
  for (;;) {
    try {
      const reply = await fetch("/console/events", { headers: headers() });
      if (reply.status === 401) {
        live(false, "needs a key");
        await new Promise((woken) => { keyNews = woken; });
        continue;
      }
      if (reply.ok) await read(reply.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch { /* the frontend is gone; it is asked again below */ }
    live(false, "away");
    await new Promise((woken) => { setTimeout(woken, RETRY_MS); });
  }
}

async function read(reader) {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) take(part);
  }
}

function take(part) {
  const lines = part.split("\n"), name = lines[0].slice("event: ".length);
  if (lines.length < 2) return;  // a beat
  const tree = JSON.parse(lines[1].slice("data: ".length));
  if (name === "picture") show(tree);
  else live(false, tree.why);
}

function live(here, words) {
  at("live").className = here ? "here" : "away";
  set(at("live"), words);
}

// -- what is shown

const sum = (some, of) => some.reduce((total, one) => total + of(one), 0);

function show(tree) {
  latest = tree;
  live(true, tree.act || "live");
  const total = sum(tree.instances, (one) => one.total_blocks), free = sum(tree.instances, (one) => one.free_blocks);
  set(at("running"), `${sum(tree.instances, (one) => one.running)}`);
  set(at("waiting"), `${sum(tree.instances, (one) => one.waiting)}`);
  set(at("moving"), `${tree.moves.filter((one) => !one.outcome).length}`);
  set(at("kv"), total ? `${Math.round((100 * (total - free)) / total)} %` : "–");
  set(at("count"), `${tree.instances.length}`);
  picture.show(tree, Boolean(key));
  for (const move of tree.moves.filter((one) => one.outcome)) addRow(at("moves"), move.request_id, `${move.source} → ${move.target}`, MOVED.has(move.outcome) ? move.reason : move.outcome, !MOVED.has(move.outcome));
  for (const one of tree.decisions) addRow(at("decisions"), one.request, `→ ${one.instance}`, reason(one));
  showPools(tree.pools);
  showChosen();
}

function reason(one) {
  const cached = one.cached ? `${one.cached} cached` : "";
  const cost = one.cost === null ? "" : `${short(one.cost)}${one.next ? `, next ${one.next} ${short(one.next_cost)}` : ""}`;
  return [cached, cost].filter(Boolean).join(", ");
}

function short(number) {
  return Number(number).toLocaleString("en", { maximumSignificantDigits: 3 });
}

function addRow(list, id, where, why, bad = false) {
  const row = make("li");
  make("b", "", id, row).title = id;
  make("span", "", where, row);
  make("span", bad ? "bad" : "", why, row);
  list.prepend(row);
  while (list.children.length > ROWS) list.lastChild.remove();
}

function showPools(pools) {
  at("pool").hidden = !pools.length;
  at("pools").replaceChildren(...pools.flatMap((one) => [tier(one, "memory", "free_blocks"), tier(one, "disk", "disk_free_blocks")]).filter(Boolean));
}

function tier(pool, name, free) {
  const total = Number(pool[`${name}_blocks`] || 0), used = total - Number(pool[free] || 0);
  if (!total) return null;
  const line = make("div", "bar-line"), words = `${name} of ${pool.node_id.slice(0, 8)}: ${used} of ${total} blocks`;
  make("span", "", words, line);
  const meter = make("meter", "", undefined, line);
  Object.assign(meter, { max: total, value: used });
  meter.setAttribute("aria-label", words);
  return line;
}

// -- one request

async function choose(id) {
  chosen = id;
  const box = at("story");
  box.replaceChildren(make("h2", "", "Request"), make("h3", "", id), make("p", "facts", " "));
  box.append(movePanel(id));
  showChosen();
  try {
    const story = await ask(`/console/explain?request=${encodeURIComponent(id)}`);
    if (chosen === id) box.append(...story.stays.reverse().map(stayTable));
  } catch (error) {
    if (chosen === id) make("p", "hint", error.message, box);
  }
}

function showChosen() {
  for (const fish of document.querySelectorAll(".fish[aria-pressed=true]")) if (fish.dataset.request !== chosen) fish.setAttribute("aria-pressed", "false");
  const facts = document.querySelector("#story .facts");
  if (!facts) return;
  const host = latest.instances.find((one) => one.guests.some((guest) => guest[0] === chosen));
  const guest = host && host.guests.find((one) => one[0] === chosen);
  set(facts, guest ? `on ${host.id}: ${inWords(guest)}` : "not on any instance that is drawn");
  if (host) picture.tanks.get(host.id).known.get(chosen).setAttribute("aria-pressed", "true");
}

function movePanel(id) {
  const panel = make("div", "acts"), to = make("select", "", undefined, panel);
  to.setAttribute("aria-label", "Move it to");
  for (const one of latest.instances) make("option", "", one.id, to);
  const go = make("button", "act", "Move", panel);
  go.disabled = !key;
  go.addEventListener("click", () => act({ act: "Migrate", request_id: id, target: to.value }));
  return panel;
}

function stayTable(stay) {
  const table = make("table"), head = `${stay.instance}, epoch ${stay.epoch}: ${stay.why}`;
  const pause = stay.terms.length ? "" : ` · ${stay.pause_s ? `pause ${Math.round(1000 * stay.pause_s)} ms` : "pause not over"}, ${(stay.sent_bytes / 1e6).toFixed(2)} MB in ${count(stay.stages, "stage")}`;
  const cached = Number(stay.cached_tokens) ? ` · ${stay.cached_tokens} tokens cached there` : "";
  make("caption", "", head + pause + cached, table);
  const costs = new Map();
  for (const term of stay.terms) costs.set(term.candidate, [...(costs.get(term.candidate) || []), term]);
  for (const [name, terms] of costs) {
    const row = make("tr", name === stay.instance ? "chosen" : "", undefined, table);
    make("th", "", name, row).scope = "row";
    make("td", "", terms.map((one) => `${short(one.weight)} × ${one.scorer} ${short(one.raw)}`).join(" + "), row);
    make("td", "", short(sum(terms, (one) => one.raw * one.weight)), row);
  }
  return table;
}

// -- acts

function drain(id, button) {
  if (button.dataset.sure) return act({ act: "Drain", id });
  button.dataset.sure = "yes";
  set(button, "Sure?");
  setTimeout(() => { delete button.dataset.sure; set(button, "Drain"); }, SURE_MS);
}

function assign(id, role) {
  document.activeElement.blur();  // what it becomes is what the next picture says
  act({ act: "Roles", roles: { [id]: role } });
}

function useKey(given) {
  key = given;
  at("door").close();
  set(at("key"), key ? "Key in use" : "Enter a key");
  for (const one of document.querySelectorAll("#less, #more, #story .act")) one.disabled = !key;
  if (latest) picture.show({ ...latest, moves: [] }, Boolean(key));
  keyNews();
}

for (const [id, by] of [["less", -1], ["more", 1]]) at(id).addEventListener("click", () => act({ act: "Scale", instances: latest.instances.length + by }));
at("key").addEventListener("click", () => { at("given").value = ""; at("door").showModal(); });
at("use").addEventListener("click", () => useKey(at("given").value.trim()));
at("forget").addEventListener("click", () => useKey(""));
at("given").addEventListener("keydown", (event) => { if (event.key === "Enter") useKey(at("given").value.trim()); });
listen();
