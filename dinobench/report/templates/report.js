"use strict";
// Sorting, filtering, opening rows and the theme. Text from records goes into the page as text, never as markup.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const el = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  let parsed;
  const data = () => (parsed ??= JSON.parse($("#data").textContent));
  // what a page of many runs keeps compressed: rows of the leaderboard, and the records
  const unpacked = {};
  const unpack = (name) => (unpacked[name] ??= (async () => {
    const bytes = Uint8Array.from(atob($(`#packed-${name}`).textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  })());
  let packed; // {fields, shared, records}: fields of a record that others have too are numbers of `shared`
  const recorded = (i) => {
    if (!packed) return data().records[i];
    const { fields, shared, records } = packed;
    return Object.fromEntries(fields.map(([name, among], at) => [name, among ? shared[records[i][at]] : records[i][at]]));
  };

  // -- theme: the system's unless chosen; a page from disk may not be allowed to remember
  const root = document.documentElement;
  const theme = $("#theme");
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => {
    theme.textContent = dark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
    theme.setAttribute("aria-pressed", String(dark()));
  };
  try { if (localStorage.dinobenchTheme) root.dataset.theme = localStorage.dinobenchTheme; } catch { /* stays the system's */ }
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.dinobenchTheme = root.dataset.theme; } catch { /* for this visit only */ }
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();

  // -- the leaderboard
  const body = $("#board > tbody");
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const text = (tr, name) => $(`.c-${name}`, tr).textContent.trim();
  const amount = (tr, name) => Number($(`.c-${name}`, tr).dataset.v);
  const flags = (tr) => (tr.nextElementSibling?.matches(".flags") ? tr.nextElementSibling : null);
  const total = Number($("#board").dataset.total);
  const taken = (trs) => trs.map((tr) => ({
    tr, at: Number(tr.dataset.i), flags: flags(tr), group: Number(tr.dataset.g), detail: null,
    model: text(tr, "model"), protocol: text(tr, "protocol"), profile: text(tr, "profile"),
    dataset: text(tr, "dataset"), metric: text(tr, "metric"), score: amount(tr, "score"), n: amount(tr, "n"),
    all: `${tr.textContent} ${flags(tr)?.textContent ?? ""} ${tr.id}`.toLowerCase().replace(/\s+/g, " "),
  }));
  const rows = taken($$("tr[data-i]", body));
  let order = rows;
  let sorted = null;

  const numbers = (a, b) => (Number.isNaN(a) - Number.isNaN(b)) || a - b;
  const compare = {
    score: (a, b, sign) => a.group - b.group || sign * numbers(a.score, b.score), // ranked among comparable runs only
    n: (a, b, sign) => sign * numbers(a.n, b.n),
  };
  const sort = (key, sign) => {
    sorted = [key, sign];
    const by = compare[key] ?? ((a, b) => sign * words.compare(a[key], b[key]));
    order = [...rows].sort((a, b) => by(a, b, sign) || a.at - b.at);
    const moved = document.createDocumentFragment();
    for (const row of order) moved.append(...[row.tr, row.flags, row.detail].filter(Boolean));
    body.append(moved);
    divide();
  };
  const headers = $$("#board > thead button");
  for (const button of headers) {
    button.addEventListener("click", () => {
      const th = button.parentElement;
      const numeric = ["score", "n"].includes(button.dataset.key);
      const was = th.getAttribute("aria-sort");
      const next = was === "none" ? (numeric ? "descending" : "ascending") : was === "ascending" ? "descending" : "ascending";
      for (const other of headers) other.parentElement.setAttribute("aria-sort", "none");
      th.setAttribute("aria-sort", next);
      sort(button.dataset.key, next === "ascending" ? 1 : -1);
    });
  }

  // a rule before each group of comparable runs; what they share is said once and then fades
  const divide = () => {
    let last = null;
    for (const { tr, group } of order) {
      if (tr.hidden) continue;
      tr.classList.toggle("first", group !== last);
      tr.classList.toggle("cont", group === last);
      last = group;
    }
  };
  const [query, protocol, dataset, shown] = ["#text", "#protocol", "#dataset", "#shown"].map((s) => $(s));
  const filter = () => {
    const terms = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = (!protocol.value || row.protocol === protocol.value) && (!dataset.value || row.dataset === dataset.value)
        && terms.every((term) => row.all.includes(term));
      row.tr.hidden = !fits;
      if (row.flags) row.flags.hidden = !fits;
      if (row.detail) row.detail.hidden = !fits || $(".open", row.tr).getAttribute("aria-expanded") !== "true";
      count += fits;
    }
    shown.textContent = count === total ? `${count.toLocaleString("en")} runs`
      : `${count.toLocaleString("en")} of ${total.toLocaleString("en")} runs`;
    divide();
  };
  $("#filters").addEventListener("input", filter);
  $("#filters").addEventListener("submit", (event) => event.preventDefault());
  filter(); // a reloaded page may come with its fields filled in

  // -- one run's provenance
  const show = (value) => {
    if (value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length)) return "—";
    if (Array.isArray(value)) return value.map(show).join(", ");
    return typeof value === "object" ? JSON.stringify(value) : String(value);
  };
  const part = (title, pairs) => {
    const list = el("dl");
    for (const [name, value, doc] of pairs) {
      const dd = el("dd", {}, show(value));
      if (doc) dd.append(el("small", {}, doc));
      list.append(el("dt", {}, name), dd);
    }
    return pairs.length ? el("div", { class: "part" }, el("h3", {}, title), list) : "";
  };
  const score = (m) => {
    const digits = (x) => (typeof x === "number" ? x.toFixed(2) : show(x));
    const interval = m.ci_low === null || m.ci_high === null ? "" : ` [${digits(m.ci_low)}, ${digits(m.ci_high)}]`;
    return `${digits(m.value)} ${m.unit}${interval}, n\u00a0=\u00a0${m.n.toLocaleString("en")}`;
  };
  const copier = (name, content, fallback) => {
    const button = el("button", { type: "button", class: "quiet" }, name);
    button.addEventListener("click", async () => {
      let done = true;
      try { await navigator.clipboard.writeText(content()); } catch { done = fallback(); }
      button.textContent = done ? "Copied" : "Select and copy";
      setTimeout(() => { button.textContent = name; }, 1500);
    });
    return button;
  };
  const select = (node) => {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  };
  const links = (title, indices, make) => {
    return indices.length ? [el("div", { class: "part" }, el("h3", {}, title), ...indices.map(make))] : [];
  };
  const places = (lists, i) => lists.flatMap((list, at) => (list.includes(i) ? [at] : []));

  const provenance = (i) => {
    const record = recorded(i);
    const { checkpoint, config, metrics, versions, notes, ...run } = record;
    const docs = (Object.hasOwn(data().docs, record.protocol) && data().docs[record.protocol]) || {};
    const doc = (name) => (Object.hasOwn(docs, name) ? docs[name].filter(Boolean).join(" – ") : "");
    const address = () => `${location.href.split("#")[0]}#${encodeURIComponent(record.run_id)}`;
    const json = JSON.stringify(record, null, 2);
    const pre = el("pre", { tabindex: "0" }, json);
    const raw = el("details", {}, el("summary", {}, "The record as JSON"), pre);
    const id = el("code", {}, record.run_id);
    const trained = places(data().trainings, i).map((at) => $(`#s-training-${at}`));
    const pictures = places(data().pictures, i).map((at) => $(`#s-picture-${at}`).cloneNode(true));
    for (const picture of pictures) picture.removeAttribute("id");
    return el("td", { colspan: "8", role: "cell" },
      el("div", { class: "head" }, id, copier("Copy link", address, () => select(id)),
        copier("Copy JSON", () => json, () => { raw.open = true; return select(pre); })),
      el("div", { class: "parts" },
        part("Metrics", Object.entries(metrics).map(([name, m]) => [name, score(m)])),
        part("Notes", notes.map((note, at) => [at + 1, note])),
        part("Checkpoint", Object.entries(checkpoint)),
        part("Settings", Object.entries(config).map(([name, value]) => [name, value, doc(name)])),
        part("Run", Object.entries(run)),
        part("Versions", Object.entries(versions)),
        ...links("Training", trained, (d) => el("a", { href: `#${d.id}` }, $("summary", d).firstChild.textContent))),
      ...(pictures.length ? [el("div", { class: "gallery" }, ...pictures)] : []),
      raw);
  };
  const open = (row, expanded) => {
    const button = $(".open", row.tr);
    if (!row.detail) {
      const waiting = !packed && $("#packed-records");
      row.detail = el("tr", { class: "detail", role: "row", id: `s-detail-${row.at}` },
        waiting ? el("td", { colspan: "8", role: "cell" }, "Unpacking …") : provenance(row.at));
      if (waiting) unpack("records").then((text) => {
        packed ??= JSON.parse(text);
        row.detail.replaceChildren(provenance(row.at));
      }).catch(() => row.detail.replaceChildren(el("td", { colspan: "8", role: "cell" },
        `This browser cannot unpack the records; this one is runs/${row.tr.id}.json.`)));
      button.setAttribute("aria-controls", row.detail.id);
      (row.flags ?? row.tr).after(row.detail);
    }
    button.setAttribute("aria-expanded", String(expanded));
    for (const part of [row.tr, row.flags]) part?.classList.toggle("opened", expanded);
    row.detail.hidden = !expanded;
  };
  const byElement = new Map();
  const index = (some) => { for (const row of some) byElement.set(row.tr, row).set(row.flags, row); };
  index(rows);
  body.addEventListener("click", (event) => {
    const row = byElement.get(event.target.closest("tr"));
    if (!row || (getSelection().toString() && !event.target.closest("button"))) return;
    const expanded = $(".open", row.tr).getAttribute("aria-expanded") !== "true";
    open(row, expanded);
    if (expanded) try { history.replaceState(null, "", `#${encodeURIComponent(row.tr.id)}`); } catch { /* sandboxed */ }
  });

  // -- deep links
  const follow = () => {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { /* taken as it is */ }
    const row = rows.find((r) => r.tr.id === id);
    if (row) {
      if (row.tr.hidden) { query.value = protocol.value = dataset.value = ""; filter(); }
      open(row, true);
      row.tr.scrollIntoView({ block: "start" });
      return;
    }
    const target = document.getElementById(id);
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", follow);
  follow();

  // -- the rows that did not fit into the page's text
  if ($("#packed-rows")) unpack("rows").then((html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html; // made, and escaped, by the same template as the rows before them
    const trs = $$("tr[data-i]", holder.content);
    body.append(holder.content);
    const more = taken(trs);
    rows.push(...more);
    index(more);
    if (sorted) sort(...sorted);
    filter();
    $("#rest").hidden = true;
    if (location.hash) follow();
  }).catch(() => { /* the hint below the table says so */ });
})();
