"use strict";
// The report works without this script: it adds the film viewer and the sorting of tables.

function sortTables() {
  for (const table of document.querySelectorAll("table")) {
    const bodies = Array.from(table.tBodies);
    if (!table.tHead || table.classList.contains("stamp") || !bodies.some((body) => body.rows.length > 1)) continue;
    if (table.querySelector("tbody [rowspan]")) continue;
    const said = document.createElement("span");
    said.className = "unseen";
    said.setAttribute("role", "status");
    table.after(said);
    for (const [cell, column] of headings(table.tHead)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...cell.childNodes);
      cell.append(button);
      cell.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const next = cell.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
        cell.setAttribute("aria-sort", next);
        for (const body of bodies) sortRows(body, column, next === "ascending" ? 1 : -1);
        said.textContent = `sorted by ${button.textContent.trim()}, ${next}`;
      });
    }
  }
}

// The cells of the lowest headings, each with the column it stands above.
function headings(head) {
  const taken = [];
  const found = [];
  Array.from(head.rows).forEach((row, top) => {
    taken[top] = taken[top] || [];
    let column = 0;
    for (const cell of row.cells) {
      while (taken[top][column]) column += 1;
      for (let down = 0; down < cell.rowSpan; down += 1) {
        taken[top + down] = taken[top + down] || [];
        for (let right = 0; right < cell.colSpan; right += 1) taken[top + down][column + right] = true;
      }
      if (top + cell.rowSpan === head.rows.length && cell.colSpan === 1) found.push([cell, column]);
      column += cell.colSpan;
    }
  });
  return found;
}

// Numbers by size, names by alphabet, what does not apply last; headings within a body stay at its beginning,
// means over several leads at its end.
function sortRows(body, column, sign) {
  const key = (row) => {
    const cell = row.cells[column];
    if (!cell || cell.colSpan > 1) return "";
    const text = ("value" in cell.dataset ? cell.dataset.value : cell.textContent).trim();
    return /^(n\/a|nan|none|-)?$/i.test(text) ? "" : text;
  };
  const place = (row) => row.classList.contains("pooled") - row.classList.contains("head");
  const rows = Array.from(body.rows).map((row) => [row, key(row), place(row)]);
  const number = (text) => Number(text.replace("\u2212", "-").replace(/\s*%$/, ""));
  const numeric = rows.every(([, text, fixed]) => fixed || text === "" || !Number.isNaN(number(text)));
  rows.sort(([, a, late], [, b, later]) => {
    if (late || later) return late - later; // equal: as they were
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (numeric ? number(a) - number(b) : a.localeCompare(b));
  });
  body.append(...rows.map(([row]) => row));
}

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// One byte per cell, or per pixel and colour: see evaluation/viewer.py, whose `decode` does the same.
async function decode(text, leads, height, width) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let row = 0; row < leads * height; row += 1) {
    let sum = 0;
    for (let i = row * width; i < (row + 1) * width; i += 1) {
      sum += data[i];
      data[i] = row % height ? sum + data[i - width] : sum;
    }
  }
  return data;
}

function colours(range) {
  const rgb = bytes(range.palette);
  const table = new Uint8ClampedArray(1024);
  for (let i = 0; i < 256; i += 1) table.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
  return table;
}

function paint(canvas, table, pick) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < image.data.length / 4; i += 1) {
    const at = 4 * pick(i);
    image.data.set(table.subarray(at, at + 4), 4 * i);
  }
  context.putImageData(image, 0, 0);
}

// A picture of its own colours: level(i, plane) is a byte of pixel i, planes 1 (grey) or 3 (red, green, blue).
function paintPicture(canvas, planes, level) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < image.data.length / 4; i += 1) {
    for (let k = 0; k < 3; k += 1) image.data[4 * i + k] = level(i, planes === 1 ? 0 : k);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function startViewer(section, film) {
  const at = (id) => document.getElementById(`viewer-${id}`);
  const [cases, methods, members, play, slider] = ["case", "method", "members", "play", "lead"].map(at);
  const { width, height, leads } = film;
  const tables = { field: film.planes ? null : colours(film.field), spread: film.spread && colours(film.spread) };
  const planes = (kind) => (kind === "field" && film.planes ? film.planes : 1);
  const rowFrom = (top) => (film.up ? height - 1 - top : top); // y points up in a field, down in a video
  const decoded = new Map();
  const spaced = (units) => (units === "" || units === "1" ? "" : ` ${units.replace(/^1\//, "/ ")}`);
  const [unit, scoreUnit] = [spaced(film.units), spaced(film.scoreUnits)];
  const few = (value) => Number(value.toPrecision(3)).toString();
  let panels = [];
  let timer = null;
  let turn = 0;

  const field = (text, kind) => {
    if (!decoded.has(text)) decoded.set(text, decode(text, leads.length, height * planes(kind), width));
    return decoded.get(text);
  };
  const option = (select, value, text) => select.append(new Option(text, value));
  film.cases.forEach((c, i) => option(cases, i, `${c.label} (${c.about})`));
  film.methods.forEach((name, i) => option(methods, i, name));
  if (film.methods.length > 1) option(methods, "all", "all methods beside each other");

  // What is shown: [title, kind of colours, data, whether it is large].
  function wanted() {
    const shown = film.cases[cases.value];
    const list = [["truth", "field", shown.truth, true]];
    if (methods.value === "all") {
      list[0][3] = false;
      film.methods.forEach((name, i) => {
        const one = shown.films[i];
        if (one) list.push([one.size > 1 ? `${name}, member 1` : name, "field", one.members[0]]);
      });
      return list;
    }
    const one = shown.films[methods.value];
    if (!one) return list;
    if (one.size === 1) return [...list, ["forecast", "field", one.members[0], true]];
    list.push(["ensemble mean", "field", one.mean, true], ["spread", "spread", one.spread, true]);
    one.members.forEach((data, i) => {
      if (members.value === "all" || Number(members.value) === i) list.push([`member ${i + 1}`, "field", data]);
    });
    return list;
  }

  function offerMembers() {
    const before = members.value;
    const one = methods.value === "all" ? null : film.cases[cases.value].films[methods.value];
    const count = one && one.size > 1 ? one.members.length : 0;
    members.replaceChildren();
    if (count > 1) option(members, "all", `all ${count} shown`);
    for (let i = 0; i < count; i += 1) option(members, i, `member ${i + 1}`);
    members.disabled = count < 2;
    if (!count) option(members, "none", "-");
    if (Array.from(members.options).some((o) => o.value === before)) members.value = before;
  }

  async function arrange() {
    offerMembers();
    turn += 1;
    const mine = turn;
    section.setAttribute("aria-busy", "true");
    const list = wanted();
    const data = await Promise.all(list.map(([, kind, text]) => field(text, kind)));
    if (mine !== turn) return; // another choice was made meanwhile
    panels = list.map(([title, kind, , large], i) => {
      const box = document.createElement("figure");
      if (large) box.className = "large";
      const name = document.createElement("figcaption");
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [width, height];
      canvas.setAttribute("role", "img");
      canvas.addEventListener("pointermove", (event) => read(event, canvas, title, kind, data[i]));
      name.textContent = title;
      box.append(canvas, name);
      return { title, kind, canvas, data: data[i], box };
    });
    at("panels").replaceChildren(...panels.map((p) => p.box));
    draw();
    section.setAttribute("aria-busy", "false");
  }

  function draw() {
    const now = Number(slider.value);
    const label = `lead ${leads[now]} of ${leads[leads.length - 1]}`;
    for (const { title, kind, canvas, data } of panels) {
      const size = width * height;
      const start = (i) => now * size * planes(kind) + rowFrom(Math.floor(i / width)) * width + (i % width);
      if (tables[kind]) paint(canvas, tables[kind], (i) => data[start(i)]);
      else paintPicture(canvas, film.planes, (i, k) => data[start(i) + k * size]);
      canvas.setAttribute("aria-label", `${title}, ${film.variable}, ${label}`);
    }
    at("now").textContent = `${leads[now]}`;
    slider.setAttribute("aria-valuetext", label);
    const shown = film.cases[cases.value];
    const errors = film.methods
      .map((name, i) => [name, shown.films[i] && shown.films[i].crps[now], String(i)])
      .filter(([, crps, i]) => typeof crps === "number" && (methods.value === "all" || methods.value === i))
      .map(([name, crps]) => `${name} ${few(crps)}${scoreUnit}`);
    at("words").textContent = `${label} (${film.leadUnit}). CRPS of this case: ${errors.join(", ") || "n/a"}.`;
    section.dataset.drawn = `${cases.value}/${methods.value}/${members.value}/${now}`;
  }

  function read(event, canvas, title, kind, data) {
    const box = canvas.getBoundingClientRect();
    const x = Math.min(width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * width)));
    const top = Math.min(height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * height)));
    const y = rowFrom(top);
    const { low, high } = film[kind];
    const place = `${title}, x ${x * film.cells}, y ${y * film.cells}`;
    if (!tables[kind]) {
      const row = (k) => (Number(slider.value) * film.planes + k) * height + y;
      const shades = Array.from({ length: film.planes }, (_, k) => low + (data[row(k) * width + x] * (high - low)) / 255);
      const name = film.planes === 3 ? "red, green, blue " : "";
      at("value").textContent = `${place}: ${name}${shades.map(few).join(", ")}${unit}`;
      return;
    }
    const level = data[(Number(slider.value) * height + y) * width + x];
    const step = (high - low) / 254;
    const value = low + (level - 1) * step;
    const sign = level === 255 ? "at least " : level === 1 && low < 0 ? "at most " : "";
    const text = level ? `${sign}${few(value)}${unit} (to ±${few(step / 2)})` : film.nothing;
    at("value").textContent = `${place}: ${text}`;
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    play.textContent = "Play";
    section.dataset.playing = "no";
  }
  function advance() {
    slider.value = (Number(slider.value) + 1) % leads.length;
    draw();
    timer = setTimeout(advance, Number(slider.value) === leads.length - 1 ? 1300 : 450);
  }
  function toggle() {
    if (timer !== null) return stop();
    play.textContent = "Stop";
    section.dataset.playing = "yes";
    timer = setTimeout(advance, 150);
  }
  function go(lead) {
    stop();
    slider.value = Math.min(leads.length - 1, Math.max(0, lead));
    draw();
  }

  cases.addEventListener("change", arrange);
  methods.addEventListener("change", arrange);
  members.addEventListener("change", arrange);
  slider.addEventListener("input", () => go(Number(slider.value)));
  play.addEventListener("click", toggle);
  play.disabled = leads.length < 2;
  slider.disabled = leads.length < 2;
  document.addEventListener("visibilitychange", () => document.hidden && stop());
  section.addEventListener("keydown", (event) => {
    if (event.target.matches("select") || event.ctrlKey || event.altKey || event.metaKey) return;
    const now = Number(slider.value);
    const goal = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: leads.length - 1 }[event.key];
    if (goal !== undefined && leads.length > 1) go(goal);
    else if (event.key === " " && !event.target.matches("button")) toggle();
    else return;
    event.preventDefault();
  });
  for (const kind of ["field", "spread"]) if (tables[kind]) paint(at(`bar-${kind}`), tables[kind], (i) => i + 1);
  section.hidden = false;
  section.dataset.playing = "no";
  arrange();
}

sortTables();
{
  const section = document.getElementById("viewer");
  const data = document.getElementById("viewer-data");
  if (section && data && "DecompressionStream" in window) {
    for (const note of document.querySelectorAll(".no-viewer")) note.hidden = true;
    startViewer(section, JSON.parse(data.textContent));
  }
}
