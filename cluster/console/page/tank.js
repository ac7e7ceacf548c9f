// The picture: tanks with their water and fish, and fish that fly from tank to tank. Owns all elements under #tanks.
// A picture says what is; nothing here guesses. Texts are set as text, never as markup.
const PLACE = { id: 0, state: 1, prompt: 2, computed: 3, output: 4, most: 5, moves: 6 };  // columns of a guest
export const MOVED = new Set(["committed", "moved_waiting"]);
const ROLES = ["mixed", "prefill", "decode"], FLIGHT_MS = 900, KEEP_MOVES = 500;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export function make(tag, className, text, parent) {
  const one = document.createElement(tag);
  if (className) one.className = className;
  if (text !== undefined) one.textContent = text;
  if (parent) parent.append(one);
  return one;
}

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function count(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}

export function phaseOf(guest) {
  const state = guest[PLACE.state];
  return state === "running" ? (guest[PLACE.output] ? "decode" : "prefill") : state;
}

export function inWords(guest) {
  const done = guest[PLACE.output] ? `${guest[PLACE.output]} of at most ${guest[PLACE.most]} tokens made`
    : `${guest[PLACE.computed]} of ${guest[PLACE.prompt]} prompt tokens computed`;
  return `${phaseOf(guest)}, ${done}${guest[PLACE.moves] ? `, moved ${count(guest[PLACE.moves], "time")}` : ""}`;
}

class Tank {
  constructor(id, picked, acts, coming) {
    Object.assign(this, { id, coming });  // requests whose fish still flies to some tank
    this.root = make("section", "tank");
    this.root.dataset.instance = id;
    const head = make("header", "", undefined, this.root);
    make("h3", "", id, head);
    this.role = make("select", "chip", undefined, head);
    this.role.setAttribute("aria-label", `Role of ${id}`);
    for (const role of ROLES) make("option", "", role, this.role);
    this.role.addEventListener("change", () => acts.assign(id, this.role.value));
    this.state = make("span", "state", "", head);
    this.drain = make("button", "act", "Drain", head);
    this.drain.disabled = true;
    this.drain.addEventListener("click", () => acts.drain(id, this.drain));
    const glass = make("div", "glass", undefined, this.root);
    this.water = make("div", "water", undefined, glass);
    this.fishes = make("div", "fishes", undefined, glass);
    this.fishes.setAttribute("role", "toolbar");
    this.fishes.setAttribute("aria-label", `Requests on ${id}`);
    this.fishes.addEventListener("click", (event) => event.target.closest(".fish") && picked(event.target.closest(".fish").dataset.request));
    this.fishes.addEventListener("keydown", (event) => this.step(event));
    const foot = make("footer", "", undefined, this.root);
    this.numbers = ["running", "waiting", "KV", "step"].map((name) => {
      const cell = make("span", name === "step" ? "step" : "", undefined, foot);
      const value = make("b", "", "", cell);
      make("span", "word", name, cell);
      return value;
    });
    this.known = new Map();
  }

  step(event) {  // one tab stop per tank; arrows go from fish to fish
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const all = [...this.fishes.children], next = all[all.indexOf(event.target) + (by || 0)];
    if (!by || !next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  show(one, mayAct) {
    const used = one.total_blocks ? (one.total_blocks - one.free_blocks) / one.total_blocks : 0;
    if (document.activeElement !== this.role) this.role.value = one.role;
    set(this.state, one.state === "ready" ? "" : `${one.state} ${one.note}`);
    this.root.classList.toggle("off", one.state !== "ready");
    this.drain.disabled = this.role.disabled = !mayAct || one.state !== "ready";
    this.water.style.transform = `translateY(${(100 * (1 - used)).toFixed(1)}%)`;
    const texts = [`${one.running}`, `${one.waiting}`, `${Math.round(100 * used)} %`, `${one.step_ms.toFixed(1)} ms`];
    texts.forEach((text, i) => set(this.numbers[i], text));
    this.root.setAttribute("aria-label", `Instance ${this.id}, ${one.role}, ${one.state}: ${one.running} running, ${one.waiting} waiting, ${texts[2]} of its KV memory in use`);
    this.showGuests(one.guests);
  }

  showGuests(guests) {
    const here = new Set(guests.map((guest) => guest[PLACE.id]));
    for (const [id, fish] of this.known) if (!here.has(id)) { fish.remove(); this.known.delete(id); }
    for (const guest of guests) this.showFish(guest);
    const stops = [...this.fishes.children];
    if (stops.length && !stops.some((fish) => fish.tabIndex === 0)) stops[0].tabIndex = 0;
  }

  showFish(guest) {
    let fish = this.known.get(guest[PLACE.id]);
    if (!fish) {
      fish = make("button", "fish new", undefined, this.fishes);
      make("i", "shape", undefined, fish);
      fish.dataset.request = guest[PLACE.id];
      fish.tabIndex = -1;
      fish.setAttribute("aria-pressed", "false");
      this.known.set(guest[PLACE.id], fish);
    }
    fish.classList.toggle("coming", this.coming.has(guest[PLACE.id]));
    fish.firstChild.className = `shape ${phaseOf(guest)}`;
    fish.setAttribute("aria-label", `${guest[PLACE.id]}: ${inWords(guest)}`);
    fish.title = `${guest[PLACE.id]}\n${inWords(guest)}`;
  }

  spot(request) {  // where that fish is, or its tank's middle; in the window's pixels
    const box = (this.known.get(request) || this.fishes).getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  }
}

export class Picture {
  constructor(root, paths, picked, acts) {
    Object.assign(this, { root, paths, picked, acts, tanks: new Map(), moves: new Map(), lines: new Map(), coming: new Set() });
  }

  show(tree, mayAct) {
    for (const move of tree.moves) this.showMove(move);  // before the fish change tanks: a flight begins where it was
    const here = new Set(tree.instances.map((one) => one.id));
    for (const [id, tank] of this.tanks) if (!here.has(id)) { tank.root.remove(); this.tanks.delete(id); }
    for (const one of tree.instances) {
      if (!this.tanks.has(one.id)) {
        this.tanks.set(one.id, new Tank(one.id, this.picked, this.acts, this.coming));
        this.root.append(this.tanks.get(one.id).root);
      }
      this.tanks.get(one.id).show(one, mayAct);
    }
    const count = tree.instances.length;
    this.root.className = count > 24 ? "crowd" : count > 8 ? "many" : "few";
  }

  showMove(move) {
    const before = this.moves.get(move.move_id), [from, to] = [this.tanks.get(move.source), this.tanks.get(move.target)];
    if (before === "flown" || !from || !to) return;
    const ended = Boolean(move.outcome);
    this.moves.set(move.move_id, ended ? "flown" : "under way");
    if (this.moves.size > KEEP_MOVES) this.moves.delete(this.moves.keys().next().value);
    if (!before) this.draw(move, from, to);
    if (ended) {
      if (MOVED.has(move.outcome)) this.fly(move, from, to);
      setTimeout(() => { this.lines.get(move.move_id)?.remove(); this.lines.delete(move.move_id); }, FLIGHT_MS + 600);
    }
  }

  draw(move, from, to) {
    const [x, y] = from.spot(move.request_id), [toX, toY] = to.spot(), top = Math.min(y, toY) - 70;
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", `M${x} ${y} Q${(x + toX) / 2} ${top} ${toX} ${toY}`);
    this.paths.append(line);
    this.lines.set(move.move_id, line);
    for (const tank of [from, to]) {
      tank.root.classList.add("lit");
      setTimeout(() => tank.root.classList.remove("lit"), FLIGHT_MS + 600);
    }
  }

  fly(move, from, to) {
    const [x, y] = from.spot(move.request_id), [toX, toY] = to.spot(), flyer = make("div", "flyer", undefined, document.body);
    make("i", "shape moving", undefined, flyer);
    flyer.dataset.request = move.request_id;
    const turn = toX > x ? "scaleX(-1)" : "", top = Math.min(y, toY) - 70, stops = [];
    for (let t = 0; t <= 1.001; t += 0.1) {  // along the line that is drawn, a quadratic curve
      const at = (a, b, c) => (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c;
      stops.push({ transform: `translate(${at(x, (x + toX) / 2, toX) - 15}px, ${at(y, top, toY) - 9}px) ${turn}` });
    }
    const flight = flyer.animate(stops, { duration: still.matches ? 1 : FLIGHT_MS, easing: "ease-in-out", fill: "both" });
    this.coming.add(move.request_id);
    flight.finished.finally(() => {
      flyer.remove();
      this.coming.delete(move.request_id);
      to.known.get(move.request_id)?.classList.remove("coming");
    });
  }
}
