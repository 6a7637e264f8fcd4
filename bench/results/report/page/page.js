"use strict";
// Sorting, filters, the comparison, the blind vote and the downloads. Everything is in the page: nothing is asked for.
const all = (query, within = document) => [...within.querySelectorAll(query)];
const one = (query, within = document) => within.querySelector(query);
document.documentElement.classList.add("scripted");

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

// ---- the table
function sortable(table) {
  const heads = all("thead th", table), body = one("tbody", table);
  heads.forEach((head, column) => one("button", head).addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort;
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what has no value stands last either way
      const numeric = !isNaN(x) && !isNaN(y);
      return (down ? -1 : 1) * (numeric ? x - y : x.localeCompare(y));
    };
    body.append(...[...body.rows].sort(order));
  }));
}
sortable(one("#scores"));
one("#all-scorers").addEventListener("change", (event) => one("#scores").classList.toggle("all", event.target.checked));

// ---- the curves
function showUnit() {
  const chosen = one("input[name=unit]:checked");
  if (chosen) all(".curve").forEach((figure) => { figure.hidden = figure.dataset.unit !== chosen.value; });
}
all("input[name=unit]").forEach((radio) => radio.addEventListener("change", showUnit));
showUnit();

// ---- downloads
async function fileBlob(element) {
  const bytes = Uint8Array.from(atob(element.textContent.trim()), (letter) => letter.charCodeAt(0));
  let stream = new Blob([bytes]).stream();
  if (element.dataset.compressed === "true") stream = stream.pipeThrough(new DecompressionStream("gzip"));
  return new Blob([await new Response(stream).arrayBuffer()], { type: element.dataset.kind });
}
const files = all("script.file");
all("#files button").forEach((button) => button.addEventListener("click", async () => {
  const file = files[button.dataset.file];
  save(file.dataset.name, await fileBlob(file));
}));

function decoded(image) {
  const bytes = atob(image.src.split(",")[1]);
  return new Blob([Uint8Array.from(bytes, (letter) => letter.charCodeAt(0))], { type: "image/svg+xml" });
}

async function asPng(image) {
  const copy = new Image(), canvas = document.createElement("canvas");
  copy.src = image.src;
  await copy.decode();
  canvas.width = 2 * copy.naturalWidth;
  canvas.height = 2 * copy.naturalHeight;
  canvas.getContext("2d").drawImage(copy, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

all(".plot img").forEach((image) => {
  for (const [form, make] of [["svg", decoded], ["png", asPng]]) {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = `${image.dataset.name}.${form}`;
    button.addEventListener("click", async () => save(button.textContent, await make(image)));
    item.append(button);
    one("#figure-files").append(item);
  }
});

// ---- the pictures
const galleries = all(".gallery");
const names = (gallery) => {
  const found = new Map();
  all(".cell", gallery).forEach((cell) => found.set(cell.dataset.method, cell.dataset.shown));
  return found;
};
let isBlind = false;

function current() {
  return galleries[one("#task").value];
}

function enterTask() {
  const gallery = current();
  const categories = [...new Set(all(".row", gallery).map((row) => row.dataset.category))].sort();
  options(one("#category"), [["", "all"], ...categories.map((name) => [name, name])]);
  options(one("#verdict"), [["", "any"], ...Object.entries(JSON.parse(gallery.dataset.choices))]);
  const box = one("#methods");
  all("label", box).forEach((label) => label.remove());
  names(gallery).forEach((shown, method) => {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "checkbox", value: method, defaultChecked: true, disabled: isBlind });
    label.append(input, ` ${shown}`);
    box.append(label);
  });
  const cells = all(".picture", one(".row", gallery)).map((button) => {
    const cell = button.closest(".cell"), seed = button.dataset.seed;
    const many = all(".picture", cell).length > 1;
    return [`${seed} ${cell.dataset.method}`, cell.dataset.shown + (many ? `, seed ${seed}` : "")];
  });
  options(one("#left"), cells);
  options(one("#right"), cells);
  one("#right").selectedIndex = Math.min(1, cells.length - 1);
  options(one("#which"), all(".row", gallery).map((row) => [row.dataset.index, row.dataset.prompt]));
  filter();
  compare();
}

function filter() {
  const category = one("#category").value, tag = isBlind ? "" : one("#verdict").value;
  const words = one("#prompt").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = new Set(all("#methods input:checked").map((input) => input.value));
  galleries.forEach((gallery) => { gallery.hidden = gallery !== current(); });
  let shown = 0;
  const rows = all(".row", current());
  rows.forEach((row) => {
    const text = row.dataset.prompt.toLowerCase();
    row.hidden = Boolean(category && row.dataset.category !== category)
      || Boolean(tag && !row.dataset.tags.split(" ").includes(tag))
      || !words.every((word) => text.includes(word));
    shown += !row.hidden;
    all(".cell", row).forEach((cell) => { cell.hidden = !isBlind && !wanted.has(cell.dataset.method); });
  });
  one("#count").textContent = `${shown} of ${rows.length} prompts`;
}

// ---- one picture over the other
function pictureAt(row, choice) {
  const space = choice.indexOf(" "), seed = choice.slice(0, space), method = choice.slice(space + 1);
  const cell = all(".cell", row).find((found) => found.dataset.method === method);
  return cell && all(".picture", cell).find((found) => found.dataset.seed === seed);
}

function compare() {
  const row = all(".row", current()).find((found) => found.dataset.index === one("#which").value);
  const pair = [one("#left"), one("#right")].map((select) => pictureAt(row, select.value));
  [one("#over"), one("#under")].forEach((image, number) => {
    const source = pair[number] && one("img", pair[number]);
    image.hidden = !source;
    if (source) Object.assign(image, { src: source.src, alt: source.alt });
  });
  const told = (number, select) => `${select.selectedOptions[0].text}: ${pair[number] ? pair[number].dataset.verdict : "no picture"}`;
  one("#compare-told").textContent = `Left, ${told(0, one("#left"))}. Right, ${told(1, one("#right"))}.`;
  slide();
}

function slide() {
  one("#over").style.clipPath = `inset(0 ${100 - one("#slider").value}% 0 0)`;
}

// ---- the blind vote
const votes = new Map();  // task and prompt to { method, order }

function shuffled(items) {
  const order = [...items];
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

function setBlind(on) {
  isBlind = on;
  one("#blind").setAttribute("aria-pressed", String(on));
  one("#gallery").classList.toggle("blinded", on);
  one("#votes").hidden = !on;
  if (on) one("#result").hidden = true;
  one("#verdict").disabled = on;
  all("#methods input").forEach((input) => { input.disabled = on; });
  all(".row").forEach((row) => {
    const cells = all(".cell", row), box = one(".cells", row);
    row.original ??= cells;
    const order = on ? shuffled(cells) : row.original;
    box.prepend(...order);
    order.forEach((cell, place) => {
      const letter = String.fromCharCode(65 + place);
      one("figcaption", cell).textContent = on ? letter : cell.dataset.shown;
      one(".vote span", cell).textContent = letter;
      all("img", cell).forEach((image) => {
        image.dataset.alt ??= image.alt;
        image.alt = on ? `picture ${letter}: ${row.dataset.prompt}` : image.dataset.alt;
      });
    });
    all(".vote", row).forEach((vote) => { vote.hidden = !on; });
  });
  filter();
}

function vote(input) {
  const row = input.closest(".row"), gallery = row.closest(".gallery");
  const order = all(".cell", row).map((cell) => cell.dataset.method);
  votes.set(`${gallery.dataset.task} ${row.dataset.index}`, {
    task: gallery.dataset.name, index: row.dataset.index, prompt: row.dataset.prompt, method: input.value, order,
  });
}

function tally() {
  setBlind(false);
  const found = new Map();
  votes.forEach(({ method, order }) => {
    order.forEach((name) => found.set(name, found.get(name) || { won: 0, shown: 0 }));
    order.forEach((name) => { found.get(name).shown += 1; });
    if (method) found.get(method).won += 1;
  });
  const undecided = [...votes.values()].filter(({ method }) => !method).length;
  const rows = [...found].sort((a, b) => b[1].won - a[1].won).map(([name, { won, shown }]) => [name, won, shown]);
  rows.push(["no difference", undecided, votes.size]);
  one("#tally-table tbody").replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    cells.forEach((text) => { row.insertCell().textContent = text; });
    return row;
  }));
  one("#result").hidden = false;
  one("#result").scrollIntoView({ block: "nearest" });
}

function votesCsv() {
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const lines = [["task", "prompt_index", "prompt", "best", "order"]];
  votes.forEach(({ task, index, prompt, method, order }) => lines.push([task, index, prompt, method, order.join(" | ")]));
  return lines.map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
}

// ---- one picture, enlarged
const large = one("#large");
let open = null;

function enlarge(button) {
  open = button;
  const image = one("img", button), shown = one("img", large);
  Object.assign(shown, { src: image.src, alt: image.alt });
  one("p", large).textContent = image.alt;
  if (!large.open) large.showModal();
}

function visiblePictures(row) {
  return all(".picture", row).filter((button) => button.offsetParent !== null);
}

function step(along) {
  const found = visiblePictures(open.closest(".row"));
  enlarge(found[(found.indexOf(open) + along + found.length) % found.length]);
}

function stepRow(along) {
  const rows = all(".row", current()).filter((row) => !row.hidden), here = open.closest(".row");
  const place = visiblePictures(here).indexOf(open);
  const next = visiblePictures(rows[(rows.indexOf(here) + along + rows.length) % rows.length]);
  enlarge(next[Math.min(place, next.length - 1)]);
}

if (galleries.length) {
  const first = one(".picture img");
  first.decode().then(() => document.documentElement.classList.toggle("smooth", first.naturalWidth > 128));
  one("#filters").addEventListener("submit", (event) => event.preventDefault());
  one("#filters").addEventListener("reset", () => setTimeout(enterTask));
  one("#task").addEventListener("change", enterTask);
  for (const place of ["#category", "#verdict", "#methods"]) one(place).addEventListener("change", filter);
  one("#prompt").addEventListener("input", filter);
  for (const place of ["#left", "#right", "#which"]) one(place).addEventListener("change", compare);
  one("#slider").addEventListener("input", slide);
  one("#blind").addEventListener("click", () => setBlind(!isBlind));
  one("#tally").addEventListener("click", tally);
  one("#export").addEventListener("click", () => save("votes.csv", new Blob([votesCsv()], { type: "text/csv" })));
  one("#forget").addEventListener("click", () => {
    votes.clear();
    all(".vote input").forEach((input) => { input.checked = false; });
    one("#result").hidden = true;
  });
  document.addEventListener("change", (event) => { if (event.target.closest(".vote")) vote(event.target); });
  all(".picture").forEach((button) => button.addEventListener("click", () => enlarge(button)));
  all("[data-step]", large).forEach((button) => button.addEventListener("click", () => step(Number(button.dataset.step))));
  one("[data-close]", large).addEventListener("click", () => large.close());
  large.addEventListener("close", () => { if (open) open.focus(); });
  large.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => stepRow(-1), ArrowDown: () => stepRow(1) };
    if (moves[event.key]) {
      event.preventDefault();
      moves[event.key]();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select, dialog")) {
      event.preventDefault();
      one("#prompt").focus();
    }
  });
  enterTask();
}
