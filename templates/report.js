"use strict";
// What the page does once it is read: plots, sorting, the timeline and the player.
//
// Names of tracks, methods and targets are others' text: they reach the page through textContent only, and plotly, which
// reads some HTML in its labels, through label(). The player shows its state in attributes of #player, which tests read:
// data-state, data-signal, data-position (seconds in the excerpt), data-clip, and data-gains (of the four signals).
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const CONFIG = { displayModeBar: false, responsive: false, typesetMath: false, showTips: false };
  // Okabe and Ito's hues, each made dark or light enough for its background; dash and marker tell them apart without hue.
  const LINES = [
    { light: "#0067b1", dark: "#6cb8f0", dash: "solid", symbol: "circle" },
    { light: "#c24a00", dark: "#ff9d5c", dash: "6px,2px", symbol: "square" },
    { light: "#007a5a", dark: "#3ecf9e", dash: "2px,2px", symbol: "diamond" },
    { light: "#a3458b", dark: "#eda4d6", dash: "7px,2px,2px,2px", symbol: "cross" },
    { light: "#4a4f57", dark: "#d5d9df", dash: "11px,2px", symbol: "triangle-up" },
    { light: "#7a6400", dark: "#f0e442", dash: "11px,2px,2px,2px", symbol: "x" },
  ];
  const ABSENT = 32766, DROPPED = -32768, INFINITE = 32767;

  // Text

  const label = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const shorten = (text, length) => {
    const kept = Math.floor(length / 2); // of both ends: names often start alike
    return text.length > length ? `${text.slice(0, kept).trimEnd()}…${text.slice(kept + 1 - length).trimStart()}` : text;
  };
  const decibels = (value) =>
    Number.isNaN(value) ? "–" : Number.isFinite(value) ? value.toFixed(2).replace("-", "−") : value > 0 ? "∞" : "−∞";
  const clock = (seconds, exact = false) => {
    const tenths = Math.round(seconds * 10), rest = tenths % 600;
    return `${Math.floor(tenths / 600)}:${String(Math.floor(rest / 10)).padStart(2, "0")}${exact || rest % 10 ? "." + (rest % 10) : ""}`;
  };
  const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

  function element(name, text, attributes = {}) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function table(caption, head, rows, nbText = 1) {
    const node = element("table"), top = element("thead"), line = element("tr"), body = element("tbody");
    const kind = (i) => (i && i < nbText ? { class: "text" } : {});
    head.forEach((text, i) => line.append(element("th", text, { scope: "col", ...kind(i) })));
    for (const cells of rows) {
      const row = element("tr");
      cells.forEach((text, i) => row.append(i ? element("td", text, kind(i)) : element("th", text, { scope: "row" })));
      body.append(row);
    }
    top.append(line);
    node.append(element("caption", caption, { class: "hidden" }), top, body);
    return node;
  }

  function sample({ colour, dash = "solid", symbol = "", open = false, fill = "", width = 2 }) {
    const make = (name, attributes) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      return node;
    };
    const svg = make("svg", { width: 34, height: 14, "aria-hidden": "true" });
    if (fill) svg.append(make("rect", { x: 1, y: 1, width: 32, height: 12, fill }));
    else if (dash) svg.append(make("path", { d: "M0 7H34", stroke: colour, "stroke-width": width, "stroke-dasharray": dash === "solid" ? "" : dash.replaceAll("px", "") }));
    const shapes = {
      circle: "M17 3.2a3.8 3.8 0 1 0 .01 0", square: "M13.5 3.5h7v7h-7z", diamond: "M17 2l5 5-5 5-5-5z", x: "M13 4l2-2 2 2 2-2 2 2-2 3 2 3-2 2-2-2-2 2-2-2 2-3z",
      cross: "M15.5 2h3v3.5h3.5v3h-3.5V12h-3V8.500h-3.500v-3h3.500z", "triangle-up": "M17 2l5 9H12z", box: "M10 2h14v10H10z",
    };
    if (symbol) svg.append(make("path", { d: shapes[symbol], fill: open ? "none" : colour, stroke: open ? colour : "none", "stroke-width": 1.6 }));
    return svg;
  }

  // Colours: plotly needs values, the page has variables

  const dark = matchMedia("(prefers-color-scheme: dark)"), paper = matchMedia("print");
  let printing = paper.matches;
  const isDark = () => !printing && (root.dataset.theme === "dark" || (root.dataset.theme === "auto" && dark.matches));
  const probe = document.body.appendChild(element("span", "", { class: "hidden", "aria-hidden": "true" }));
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const line = (target) => {
    const { light, dark: other, dash, symbol } = LINES[target % LINES.length];
    return { colour: isDark() ? other : light, dash, symbol };
  };
  const faded = (text, alpha) => text.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);

  function layout(extra) {
    const axis = { gridcolor: colour("rule"), zerolinecolor: colour("muted"), zerolinewidth: 1, linecolor: colour("muted"), tickcolor: colour("muted"), fixedrange: true };
    return {
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: printing ? 11 : 13, color: colour("text") },
      hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("muted"), font: { family: getComputedStyle(document.body).fontFamily, color: colour("text"), size: 13 }, align: "left", namelength: -1 },
      ...extra,
      xaxis: { ...axis, ...extra.xaxis },
      yaxis: { ...axis, ...extra.yaxis },
      ...(extra.yaxis2 ? { yaxis2: { ...axis, ...extra.yaxis2 } } : {}),
      ...(printing ? { width: Math.min(680, document.body.clientWidth) } : {}),
    };
  }

  // Drawn when they come into view: five plots of a large page need not delay its text
  const figures = [];
  const find = (entry) => figures.find((each) => each.node === entry.target);
  const views = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && find(entry).show()), { rootMargin: "300px" });
  const sizes = new ResizeObserver((entries) => requestAnimationFrame(() => entries.forEach((entry) => {
    if (find(entry).width !== entry.target.clientWidth) find(entry).update();
  })));
  function figure(node, draw) {
    const each = {
      node, width: null,
      show() { views.unobserve(node); each.width = node.clientWidth; node.style.minHeight = ""; draw(); },
      update() { if (each.width !== null) each.show(); },
    };
    figures.push(each);
    views.observe(node);
    sizes.observe(node);
    return each;
  }
  const redraw = () => { drawKeys(); figures.forEach((each) => each.update()); };

  // Distributions over tracks

  const shown = data.methods.map((_, i) => i).filter((i) => !data.methods[i].bound);
  if (!shown.length) shown.push(...data.methods.keys());
  const boxed = (t) => [...data.methods.keys()].filter((m) => data.boxes[boxMetric()][t][m]);
  const number = (value) => (value === null ? NaN : Number(String(value).replace("inf", "Infinity")));
  const boxHeight = (t) => {
    const most = Math.max(...data.targets.map((_, each) => boxed(each).length));
    return 50 + boxed(t).length * (most > 6 ? (printing ? 17 : 34) : printing ? 38 : 54);
  };
  const boxName = (m, length = Infinity) => {
    const { name, bound } = data.methods[m];
    return bound ? `${shorten(name, length - bound.length - 3)} (${bound})` : shorten(name, length);
  };
  const boxMetric = () => document.querySelector("input[name=box-metric]:checked").value;
  const boxes = data.targets.map((target, t) => {
    const holder = element("figure");
    const plot = element("div", undefined, { class: "plot", role: "img" });
    plot.style.minHeight = `${boxHeight(t)}px`; // so that nothing moves when it is drawn
    holder.append(element("h3", target), plot);
    $("boxes").append(holder);
    return figure(plot, () => drawBox(plot, t));
  });

  function referenceLines(t) {
    const band = data.bands[boxMetric()]?.[t];
    return band ? [
      { name: "SiSEC 2018, mixture", dash: "2px,3px", colour: line(1).colour, value: band.floor },
      { name: "SiSEC 2018, best oracle", dash: "9px,4px", colour: line(2).colour, value: band.ceiling },
    ] : [];
  }

  function drawBox(plot, t) {
    const metric = boxMetric(), narrow = plot.clientWidth < 420;
    const all = data.targets.flatMap((_, each) => [
      ...data.boxes[metric][each].flatMap((box) => (box ? [box.least, box.greatest] : [])),
      ...referenceLines(each).map(({ value }) => value),
    ]);
    const low = Math.min(...all, 0), high = Math.max(...all, 0), pad = (high - low || 1) * 0.04;
    const traces = [], sentences = [];
    boxed(t).forEach((m, k) => {
      const box = data.boxes[metric][t][m], { name, bound } = data.methods[m], ink = bound ? colour("muted") : line(0).colour;
      const values = data.values[metric][t][m].map(number), kept = values.map((_, i) => i).filter((i) => Number.isFinite(values[i]));
      sentences.push(`${boxName(m)}: median ${decibels(box.median)} dB, half of the tracks from ${decibels(box.q1)} to ${decibels(box.q3)}`);
      traces.push({
        type: "box", orientation: "h", y: [k - 0.12], q1: [box.q1], median: [box.median], q3: [box.q3], lowerfence: [box.lower], upperfence: [box.upper],
        width: 0.42, boxpoints: false, whiskerwidth: 0.5, line: { color: ink, width: 1.6 }, fillcolor: bound ? "rgba(0, 0, 0, 0)" : faded(toRgb(ink), 0.16), hoverinfo: "skip",
      });
      traces.push({
        type: "scatter", mode: "markers", x: kept.map((i) => values[i]), y: kept.map((_, i) => k + 0.28 + 0.14 * ((i * 0.618034) % 1)),
        marker: { color: ink, size: 5, opacity: 0.55, symbol: bound ? "circle-open" : "circle" }, hoverinfo: "text",
        hovertext: kept.map((i) => `${label(data.tracks[i])}<br>${label(name)}: ${decibels(values[i])} dB`),
      });
    });
    const band = data.bands[metric]?.[t], shapes = [];
    if (band) shapes.push({ type: "rect", layer: "below", x0: band.low, x1: band.high, yref: "paper", y0: 0, y1: 1, fillcolor: colour("band"), line: { width: 0 } });
    for (const { dash, value, name, colour: ink } of referenceLines(t)) {
      shapes.push({ type: "line", layer: "below", x0: value, x1: value, yref: "paper", y0: 0, y1: 1, line: { color: ink, width: 2, dash } });
      sentences.push(`${name}: ${decibels(value)} dB`);
    }
    plot.setAttribute("aria-label", `${metric} of ${data.targets[t]}. ${sentences.join("; ")}.`);
    Plotly.react(plot, traces, layout({
      height: boxHeight(t), margin: { l: 10, r: 10, t: 6, b: 38 }, hovermode: "closest", shapes,
      xaxis: { range: [low - pad, high + pad], title: { text: `${metric}, dB`, standoff: 6, font: { size: 12 } }, nticks: narrow ? 6 : 10, showline: false },
      yaxis: {
        range: [boxed(t).length - 0.45, -0.5], tickvals: [...boxed(t).keys()], ticktext: boxed(t).map((m) => label(boxName(m, narrow ? 16 : 24))),
        automargin: true, showgrid: false, zeroline: false, ticks: "",
      },
    }), CONFIG);
  }

  const toRgb = (hex) => `rgb(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(", ")})`;

  function boxNumbers() {
    const metric = boxMetric(), rows = [];
    data.targets.forEach((target, t) => {
      boxed(t).forEach((m) => {
        const box = data.boxes[metric][t][m];
        rows.push([target, boxName(m), String(box.number), ...[box.least, box.q1, box.median, box.q3, box.greatest].map(decibels)]);
      });
      const band = data.bands[metric]?.[t];
      if (band) rows.push([target, `SiSEC 2018: ${plural(band.number, "submission")}`, "", "", decibels(band.low), "", decibels(band.high), ""],
        [target, "SiSEC 2018: mixture", "", "", "", decibels(band.floor), "", ""], [target, `SiSEC 2018: ${band.oracle}`, "", "", "", decibels(band.ceiling), "", ""]);
    });
    $("box-numbers").replaceChildren(table(`Distributions of ${metric} in dB over tracks`, ["Target", "Method", "Tracks", "Least", "Lower quartile", "Median", "Upper quartile", "Greatest"], rows, 2));
  }

  function drawKeys() {
    const entry = (text, look) => { const item = element("li"); item.append(sample(look), element("span", text)); return item; };
    const metric = boxMetric(), items = [];
    if (shown.some((m) => !data.methods[m].bound)) items.push(entry("method: box over tracks, a point for each", { colour: line(0).colour, dash: "", symbol: "box", open: true }));
    if (data.methods.some(({ bound }) => bound)) items.push(entry("bound: the mixture (floor) or an oracle (ceiling)", { colour: colour("muted"), dash: "", symbol: "box", open: true }));
    const used = new Map(data.targets.flatMap((_, t) => referenceLines(t)).map((each) => [each.name, each]));
    for (const { name, dash, colour: ink } of used.values()) items.push(entry(name, { colour: ink, dash }));
    if (data.bands[metric]) items.push(entry("middle half of SiSEC 2018’s submissions", { fill: colour("band") }));
    $("box-key").replaceChildren(...items);
    const lost = data.targets.flatMap((target, t) => [...data.methods.keys()].flatMap((m) => {
      const values = data.values[metric][t][m].map(number), infinite = values.filter((value) => Math.abs(value) === Infinity).length;
      return infinite ? [`${data.methods[m].name}, ${target}: ${plural(infinite, "track")} with an infinite value not drawn`] : [];
    }));
    $("box-note").firstChild.textContent = lost.join("; ");
    boxNumbers();
    if (data.frames.length) lineKey();
  }
  document.querySelectorAll("input[name=box-metric]").forEach((each) => each.addEventListener("change", () => { drawKeys(); boxes.forEach((box) => box.update()); }));

  // The table of tracks

  const body = $("tracks-table").tBodies[0], rows = [...body.rows];
  const columns = [...$("tracks-table").tHead.rows[1].cells];
  const value = (row, i) => (i ? number(row.cells[i].dataset.value.replace("nan", "NaN")) : row.cells[0].textContent);
  columns.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
    columns.forEach((each) => each.setAttribute("aria-sort", each === head ? (down ? "descending" : "ascending") : "none"));
    const compare = (a, b) => {
      const [x, y] = [value(a, i), value(b, i)];
      if (!i) return sign * x.localeCompare(y);
      return Number.isNaN(x) - Number.isNaN(y) || (x === y || Number.isNaN(x) ? 0 : sign * (x - y || 0) );
    };
    body.append(...rows.toSorted(compare));
  }));
  function filter() {
    const wanted = $("filter").value.trim().toLocaleLowerCase();
    for (const row of rows) row.hidden = !row.cells[0].textContent.toLocaleLowerCase().includes(wanted);
    const left = rows.filter((row) => !row.hidden).length;
    $("filter-count").textContent = `${left || "none"} of ${plural(rows.length, "track")}${left ? "" : " has such a name"}`;
  }
  $("filter").addEventListener("input", filter);
  $("columns").addEventListener("change", () => {
    const chosen = $("columns").value;
    for (const cell of $("tracks-table").querySelectorAll("[data-target]")) cell.hidden = chosen !== "all" && cell.dataset.target !== chosen;
  });
  filter();

  // Second by second

  const state = { track: 0, method: shown[0], metric: 0, frame: 0, hidden: new Set(), fit: false };
  const decoded = new Map();

  function frames(target, { method, metric, track } = state) {
    const key = `${method} ${metric} ${target}`, { lengths, values } = data.frames[method];
    if (!decoded.has(key)) {
      const text = values[metric][target] && atob(values[metric][target]);
      decoded.set(key, text && new Int16Array(Uint8Array.from(text, (c) => c.charCodeAt(0)).buffer));
    }
    const codes = decoded.get(key), start = lengths.slice(0, track).reduce((a, b) => a + b, 0);
    return codes ? Array.from(codes.subarray(start, start + lengths[track])) : [];
  }
  const meaning = (code) =>
    code === DROPPED || code === ABSENT ? NaN : code === INFINITE ? Infinity : code === -INFINITE ? -Infinity : code / 100;
  const nbFrames = () => data.frames[state.method].lengths[state.track];
  const method = () => data.methods[state.method];
  const lines = () => data.targets.map((_, t) => t).filter((t) => frames(t).some((code) => code !== ABSENT));

  const timeline = data.frames.length ? figure($("timeline-plot"), drawTimeline) : null;

  function timelineHeight() {
    return printing ? 320 : Math.max(300, Math.min(430, $("timeline-plot").clientWidth * 0.6));
  }

  // A few frames far off, as of near silence, would flatten all others: beyond the edge are at most 2 % of the frames, and
  // only values further off than three boxes
  function chooseRange(targets) {
    const values = targets.map((t) => frames(t).map(meaning)), order = (list) => list.filter(Number.isFinite).sort((a, b) => a - b);
    const sorted = order(values.flat()), last = sorted.length - 1;
    if (last < 0) return { low: 0, high: 1, beyond: 0 };
    const ends = (pick) => order(Array.from({ length: nbFrames() }, (_, i) => pick(...values.map((each) => each[i]).filter(Number.isFinite))));
    const at = (share) => sorted[Math.round(last * share)], reach = 3 * (at(0.75) - at(0.25));
    const lows = ends(Math.min), highs = ends(Math.max), few = Math.min(lows.length - 1, Math.ceil(lows.length * 0.02));
    const least = Math.min(lows[few], at(0.25) - reach), greatest = Math.max(highs.at(-1 - few), at(0.75) + reach);
    const kept = sorted.filter((value) => least <= value && value <= greatest), low = Math.min(0, kept[0]), high = Math.max(1, kept.at(-1));
    const beyond = sorted.filter((value) => value < low || value > high).length;
    return state.fit ? { low: Math.min(low, sorted[0]), high: Math.max(high, sorted[last]), beyond } : { low, high, beyond };
  }

  function drawTimeline() {
    const plot = $("timeline-plot"), { hop, window: length } = method(), total = nbFrames() * hop + length - hop;
    const targets = visible(), traces = [];
    let nbBars = 0;
    for (const t of targets) {
      const codes = frames(t), values = codes.map(meaning), times = codes.map((_, i) => i * hop + length / 2), { colour: ink, dash, symbol } = line(t);
      traces.push({
        type: "scatter", mode: "lines+markers", x: times, y: values.map((v) => (Number.isFinite(v) ? v : null)), connectgaps: false,
        line: { color: ink, dash, width: 1.8 }, marker: { color: ink, symbol, size: 7, maxdisplayed: 26 },
        hoverinfo: "skip",
      });
      const runs = [];
      codes.forEach((code, i) => {
        if (code !== DROPPED) return;
        if (runs.length && runs.at(-1).stop === i) runs.at(-1).stop = i + 1;
        else runs.push({ start: i, stop: i + 1 });
      });
      nbBars += runs.length;
      traces.push({
        type: "bar", orientation: "h", yaxis: "y2", base: runs.map(({ start }) => start * hop), x: runs.map(({ start, stop }) => (stop - start) * hop),
        y: runs.map(() => targets.indexOf(t)), width: 0.7, marker: { color: ink, line: { width: 0 } }, hoverinfo: "skip",
      });
    }
    const { low, high, beyond } = chooseRange(targets), pad = (high - low) * 0.06;
    $("fit-field").hidden = !beyond;
    $("fit-text").textContent = `fit all values (${beyond} beyond the edge)`;
    for (const t of targets) {
      const values = frames(t).map(meaning), places = values.map((_, i) => i).filter((i) => values[i] < low || values[i] > high);
      const kind = (value) => `triangle-${value > high ? "up" : "down"}${Number.isFinite(value) ? "" : "-open"}`;
      if (places.length) traces.push({
        type: "scatter", mode: "markers", x: places.map((i) => i * hop + length / 2), y: places.map((i) => (values[i] > high ? high + pad / 2 : low - pad / 2)),
        marker: { color: line(t).colour, size: 9, symbol: places.map((i) => kind(values[i])) }, hoverinfo: "skip",
      });
    }
    const shapes = clipsHere().map((clip) => ({
      type: "rect", layer: "below", yref: "paper", y0: 0, y1: 1, x0: clip.start, x1: clip.stop, fillcolor: colour("band"), line: { width: 0 },
    }));
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600].find((each) => total / each <= (plot.clientWidth || 600) / 70) ?? 1200;
    const ticks = Array.from({ length: Math.floor(total / step) + 1 }, (_, i) => i * step);
    const foot = nbBars ? 0.02 + 0.024 * targets.length : 0;
    Plotly.react(plot, traces, layout({
      height: timelineHeight(), margin: { l: 52, r: 12, t: 12, b: 34 }, hovermode: false, barmode: "overlay", shapes,
      xaxis: { range: [0, total], tickvals: ticks, ticktext: ticks.map((tick) => clock(tick)), tickangle: 0, zeroline: false, anchor: nbBars ? "y2" : "y" },
      yaxis: { range: [low - pad, high + pad], domain: [foot, 1], title: { text: `${data.frame_metrics[state.metric]}, dB`, standoff: 4, font: { size: 12 } } },
      yaxis2: { domain: [0, Math.max(foot - 0.02, 0)], range: [targets.length - 0.5, -0.5], visible: false, anchor: "x" },
    }), CONFIG);
    placeMarks();
  }

  function lineKey() {
    const present = lines();
    $("line-key").replaceChildren(...data.targets.flatMap((target, t) => {
      if (!present.includes(t)) return [];
      const item = element("li"), field = element("label"), box = element("input", undefined, { type: "checkbox" });
      box.checked = !state.hidden.has(t);
      box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](t); timeline.update(); read(); });
      field.append(box, sample(line(t)), element("span", target));
      item.append(field);
      return [item];
    }));
  }

  // Plotly tells no one where its axes are but through _fullLayout
  const axes = () => $("timeline-plot")._fullLayout;
  function placeMark(mark, seconds) {
    const full = axes();
    mark.hidden = !full || seconds === null;
    if (mark.hidden) return;
    const { xaxis, _size: size } = full;
    mark.style.left = `${xaxis._offset + xaxis.d2p(seconds)}px`;
    mark.style.top = `${size.t}px`;
    mark.style.height = `${size.h}px`;
  }
  function placeMarks(frame = state.frame) {
    placeMark($("cursor"), frame * method().hop + method().window / 2);
    if (data.clips.length) placeMark($("head"), player.isHere() ? player.clip.start + player.position() : null);
  }

  const say = (code) => (code === DROPPED ? "dropped" : code === ABSENT || code === undefined ? "none" : `${decibels(meaning(code))} dB`);
  const visible = () => lines().filter((t) => !state.hidden.has(t));

  function read() {
    const node = $("timeline"), { hop } = method();
    node.setAttribute("aria-valuemax", Math.max(0, nbFrames() - 1));
    node.setAttribute("aria-valuenow", state.frame);
    node.setAttribute("aria-valuetext", [clock(state.frame * hop), ...visible().map((t) => `${data.targets[t]} ${say(frames(t)[state.frame])}`)].join(", "));
    tell(state.frame);
  }

  function tell(frame) {
    const { hop, window: length } = method(), start = frame * hop;
    const parts = visible().map((t) => {
      const part = element("span", `${data.targets[t]} `);
      part.append(element("b", say(frames(t)[frame])));
      return part;
    });
    $("readout").replaceChildren(element("b", `${clock(start)}–${clock(start + length)}`), ...parts);
    placeMarks(frame);
  }

  function numbers() {
    const holder = $("timeline-numbers"), targets = lines(), codes = targets.map((t) => frames(t));
    if (!holder.closest("details").open) return;
    const text = (code) => (code === DROPPED ? "dropped" : code === ABSENT ? "–" : decibels(meaning(code)));
    const list = Array.from({ length: nbFrames() }, (_, i) => [clock(i * method().hop), ...codes.map((each) => text(each[i]))]);
    holder.replaceChildren(table(sayPlace(), ["Time", ...targets.map((t) => data.targets[t])], list));
  }

  const sayPlace = () => `${data.frame_metrics[state.metric]} of ${method().name}, ${data.tracks[state.track]}, by second`;

  function choose(changes, offering = true) {
    const track = state.track;
    Object.assign(state, changes);
    if (state.track !== track && changes.frame === undefined) state.frame = 0;
    state.frame = Math.max(0, Math.min(nbFrames() - 1, state.frame));
    $("track").value = state.track;
    $("method").value = state.method;
    $("metric").value = state.metric;
    $("previous").disabled = !state.track;
    $("next").disabled = state.track === data.tracks.length - 1;
    for (const row of rows) row.toggleAttribute("aria-current", false);
    rows[state.track].setAttribute("aria-current", "true");
    lineKey();
    timeline.update();
    read();
    numbers();
    $("timeline-caption").textContent = sayPlace();
    if (data.clips.length && offering) player.offerHere();
  }

  function open(changes, offering = true) {
    choose(changes, offering);
    $("seconds").scrollIntoView();
    $("timeline").focus({ preventScroll: true });
  }

  // Listening: four sources run from one start of one clock, and only their gains change

  const clipsHere = () => data.clips.filter((clip) => clip.method === state.method && clip.track === state.track);
  const clipName = (clip) => `${data.targets[clip.target]} ${clock(clip.start)}–${clock(clip.stop)}`;

  const player = {
    context: null, clip: null, buffers: null, sources: [], gains: [], offset: 0, startedAt: 0, state: "empty", signal: 0,
    isHere: () => player.clip !== null && player.clip.method === state.method && player.clip.track === state.track,
    duration: () => player.clip.stop - player.clip.start,
    position() {
      if (player.state !== "playing") return player.offset;
      return (player.offset + Math.max(0, player.context.currentTime - player.startedAt)) % player.duration();
    },

    set(state) {
      player.state = state;
      $("play").textContent = state === "playing" ? "Pause" : "Play";
      $("play").setAttribute("aria-disabled", state === "loading");
      player.show();
    },

    show() {
      const node = $("player"), at = player.clip ? player.position() : 0;
      node.dataset.state = player.state;
      node.dataset.signal = data.signals[player.signal];
      node.dataset.position = at.toFixed(3);
      node.dataset.gains = player.gains.map((gain) => gain.gain.value.toFixed(2)).join(" ");
      if (!player.clip) return;
      node.dataset.clip = data.clips.indexOf(player.clip);
      $("seek").value = at;
      $("clock").textContent = `${clock(player.clip.start + at, true)} / ${clock(player.clip.stop)}`;
      $("seek").setAttribute("aria-valuetext", clock(player.clip.start + at));
      placeMark($("head"), player.isHere() ? player.clip.start + at : null);
    },

    tick() {
      if (player.state !== "playing") return;
      player.show();
      requestAnimationFrame(player.tick);
    },

    take(clip, seconds = clip.worst[0]?.start ?? clip.start) {
      const running = player.state === "playing" || player.state === "loading";
      if (clip !== player.clip) {
        player.stop();
        player.clip = clip;
        player.buffers = null;
        player.offset = 0;
        $("seek").max = player.duration();
        $("clip").value = data.clips.indexOf(clip);
        $("clip-note").textContent = clip.gain_db ? `All four signals are turned down by ${Math.abs(clip.gain_db)} dB, so that none clips.` : "";
        player.markWorst();
        player.set("paused");
      }
      player.seek(seconds - clip.start);
      player.say(`Loaded: ${clipName(clip)} of ${data.tracks[clip.track]}.`);
      if (running && player.state === "paused") player.play();
    },

    markWorst() {
      const share = (time) => (time - player.clip.start) / player.duration();
      for (const mark of document.querySelectorAll(".seek .worst")) mark.remove();
      for (const { start, seconds, value } of player.clip.worst) {
        const mark = element("span", "", { class: "worst", title: `worst second: ${value} dB` });
        mark.style.left = `calc(8px + (100% - 16px) * ${share(start)})`; // 16 px: the slider's thumb
        mark.style.width = `calc((100% - 16px) * ${Math.min(1, share(start + seconds)) - share(start)})`;
        $("seek").before(mark);
      }
    },

    seek(offset) {
      const playing = player.state === "playing";
      if (playing) player.stop();
      player.offset = Math.max(0, Math.min(offset, player.duration() - 0.01));
      if (playing) player.start();
      player.show();
    },

    async play() {
      const clip = player.clip;
      player.context ??= new AudioContext();
      player.set("loading");
      try {
        if (!player.buffers) {
          const bytes = clip.sounds.map((id) => Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0)).buffer);
          const buffers = await Promise.all(bytes.map((each) => player.context.decodeAudioData(each)));
          if (player.clip !== clip) return;
          player.buffers = buffers;
        }
        await player.context.resume();
      } catch {
        player.say("This browser cannot decode the sound (MP3).");
        player.set("failed");
        return;
      }
      if (player.state === "loading") player.start();
    },

    start() {
      const { context } = player;
      player.startedAt = context.currentTime + 0.02;
      player.gains = player.buffers.map((_, i) => {
        const gain = new GainNode(context, { gain: i === player.signal ? 1 : 0 });
        gain.connect(context.destination);
        return gain;
      });
      player.sources = player.buffers.map((buffer, i) => {
        const source = new AudioBufferSourceNode(context, { buffer, loop: true, loopStart: 0, loopEnd: Math.min(buffer.duration, player.duration()) });
        source.connect(player.gains[i]);
        source.start(player.startedAt, player.offset);
        return source;
      });
      player.set("playing");
      player.tick();
    },

    stop() {
      if (player.state === "playing") player.offset = player.position();
      for (const source of player.sources) { source.stop(); source.disconnect(); }
      for (const gain of player.gains) gain.disconnect();
      player.sources = [];
      player.gains = [];
      if (player.clip) player.set("paused");
    },

    toggle() {
      if (player.state === "playing") player.stop();
      else if (player.clip && player.state !== "loading") player.play();
    },

    listen(signal) {
      player.signal = signal;
      document.querySelectorAll("input[name=signal]")[signal].checked = true;
      const now = player.context?.currentTime;
      player.gains.forEach((gain, i) => {
        gain.gain.cancelScheduledValues(now);
        gain.gain.setTargetAtTime(i === signal ? 1 : 0, now, 0.003); // 10 ms are three time constants: no click, no gap
      });
      player.show();
    },

    say(text, offered = null) {
      $("notice").textContent = text;
      $("offer").hidden = offered === null;
      if (offered === null) return;
      const where = offered.track === state.track && offered.method === state.method ? "" : ` of ${data.tracks[offered.track]}`;
      $("offer").textContent = `Go to ${clipName(offered)}${where}`;
      $("offer").onclick = () => { choose({ method: offered.method, track: offered.track, frame: Math.floor(offered.start / data.methods[offered.method].hop) }); player.take(offered); };
    },

    // Of any target, or of one only: then no other's excerpt is loaded
    go(seconds, target = null) {
      const here = clipsHere(), distance = (clip) => Math.max(clip.start - seconds, seconds - clip.stop, 0);
      const inside = here.filter((clip) => (target === null || clip.target === target) && clip.start <= seconds && seconds < clip.stop);
      const clip = inside.find((each) => each === player.clip) ?? inside.find((each) => each.target === player.clip?.target) ?? inside[0];
      if (clip) return player.take(clip, seconds);
      const own = (each) => target === null || each.target === target;
      const nearest = here.toSorted((a, b) => own(b) - own(a) || distance(a) - distance(b))[0];
      const other = data.clips.find((each) => each.method === state.method) ?? data.clips[0];
      player.stop();
      player.show();
      if (nearest) player.say(`No excerpt${target === null ? "" : ` of ${data.targets[target]}`} at ${clock(seconds)}; the nearest is ${clipName(nearest)}.`, nearest);
      else player.say("There is no excerpt of this track and method.", other);
    },

    offerHere() {
      const here = clipsHere();
      if (player.isHere()) return player.show();
      if (here.length) return player.take(here[0]);
      player.go(0);
    },
  };

  function prepareTimeline() {
    const node = $("timeline");
    $("track").addEventListener("change", () => choose({ track: Number($("track").value) }));
    $("method").addEventListener("change", () => choose({ method: Number($("method").value) }));
    $("metric").addEventListener("change", () => choose({ metric: Number($("metric").value) }));
    $("previous").addEventListener("click", () => choose({ track: state.track - 1 }));
    $("next").addEventListener("click", () => choose({ track: state.track + 1 }));
    $("timeline-numbers").closest("details").addEventListener("toggle", numbers);
    const secondsAt = (event) => axes()?.xaxis.p2d(event.clientX - node.getBoundingClientRect().left - axes().xaxis._offset);
    const frameAt = (seconds) => Math.max(0, Math.min(nbFrames() - 1, Math.floor(seconds / method().hop)));
    node.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse" && axes()) tell(frameAt(secondsAt(event))); });
    node.addEventListener("pointerleave", read);
    $("fit").addEventListener("change", () => { state.fit = $("fit").checked; timeline.update(); });
    node.addEventListener("click", (event) => {
      const seconds = secondsAt(event);
      if (seconds === undefined || seconds < 0 || seconds > axes().xaxis.range[1]) return;
      state.frame = frameAt(seconds);
      read();
      if (data.clips.length) player.go(seconds);
    });
    node.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity }[event.key];
      if (step !== undefined && !event.altKey && !event.ctrlKey && !event.metaKey) {
        state.frame = Math.max(0, Math.min(nbFrames() - 1, state.frame + step * (event.shiftKey ? 10 : 1)));
        read();
      } else if (event.key === "Enter" && data.clips.length) player.go(state.frame * method().hop);
      else return;
      event.preventDefault();
    });
    for (const row of rows) row.addEventListener("click", () => { if (!String(getSelection())) open({ track: Number(row.dataset.track) }); });
    for (const button of document.querySelectorAll("button.second, button.listen")) button.addEventListener("click", () => {
      const { method: m, track, target, start, clip } = button.dataset;
      open({ method: Number(m), track: Number(track), metric: data.frame_metrics.indexOf(data.metric), frame: Math.round(start / data.methods[m].hop) }, false);
      if (clip !== undefined) player.take(data.clips[clip], Number(start));
      else if (data.clips.length) player.go(Number(start), Number(target));
      if (button.matches(".listen") && player.state !== "playing") player.play();
    });
  }

  function preparePlayer() {
    data.clips.forEach((clip, i) => {
      const several = new Set(data.clips.map((each) => each.method)).size > 1 ? `${data.methods[clip.method].name}: ` : "";
      $("clip").append(element("option", `${several}${data.tracks[clip.track]}, ${clipName(clip)}`, { value: i }));
    });
    $("clip").addEventListener("change", () => {
      const clip = data.clips[$("clip").value];
      choose({ method: clip.method, track: clip.track, frame: Math.floor((clip.worst[0]?.start ?? clip.start) / data.methods[clip.method].hop) });
      player.take(clip);
    });
    $("play").addEventListener("click", player.toggle);
    $("seek").addEventListener("input", () => player.seek(Number($("seek").value)));
    document.querySelectorAll("input[name=signal]").forEach((each, i) => each.addEventListener("change", () => player.listen(i)));
    $("seconds").addEventListener("keydown", (event) => { // here only: elsewhere the keys are the reader's
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select")) return;
      if (event.key === " " && !event.target.matches("button, summary, input[type=checkbox]")) player.toggle();
      else if (/^[1-4]$/.test(event.key)) player.listen(Number(event.key) - 1);
      else return;
      event.preventDefault();
    });
  }

  // Colours and paper

  const themes = [...document.querySelectorAll("input[name=theme]")];
  const remember = (store) => { try { return store(sessionStorage); } catch { return null; } }; // a page from a file may have none
  for (const each of themes) each.addEventListener("change", () => {
    root.dataset.theme = each.value;
    remember((storage) => storage.setItem("musdbkit-theme", each.value));
    redraw();
  });
  const remembered = themes.find((each) => each.value === remember((storage) => storage.getItem("musdbkit-theme")));
  if (remembered) {
    remembered.checked = true;
    root.dataset.theme = remembered.value;
  }
  dark.addEventListener("change", redraw);
  // More columns than paper has room for are printed target by target, and a few methods at a time
  function layTracks() {
    const heads = columns.slice(1, -1).filter((head) => !head.hidden), tables = [], most = 12;
    if (heads.length <= most) return;
    $("tracks").classList.add("split");
    data.targets.forEach((target, t) => {
      const own = heads.filter((head) => Number(head.dataset.target) === t), nbTables = Math.ceil(own.length / most);
      for (let i = 0; i < nbTables; i += 1) {
        const cells = own.slice(Math.ceil((i * own.length) / nbTables), Math.ceil(((i + 1) * own.length) / nbTables));
        if (!tables.length) cells.push(columns.at(-1)); // dropped frames: of all targets
        tables.push(element("h3", target), table(
          `${data.metric} in dB of ${target}`, ["Track", ...cells.map((head) => head.textContent)],
          [...body.rows].filter((row) => !row.hidden).map((row) => [row.cells[0].textContent, ...cells.map((head) => row.cells[head.cellIndex].textContent)]),
        ));
      }
    });
    $("tracks-paper").replaceChildren(...tables);
  }
  let closed = [];
  function print(on) {
    if (printing === on) return;
    printing = on;
    if (on) {
      closed = [...document.querySelectorAll("details:not([open])")];
      for (const each of closed) each.open = true;
      layTracks();
      figures.forEach((each) => each.show());
    } else {
      for (const each of closed) each.open = false;
      $("tracks").classList.remove("split");
      $("tracks-paper").replaceChildren();
    }
    redraw();
  }
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  paper.addEventListener("change", () => print(paper.matches));

  drawKeys();
  if (data.clips.length) preparePlayer();
  if (data.frames.length) {
    $("timeline-plot").style.minHeight = `${timelineHeight()}px`;
    prepareTimeline();
    const first = data.clips[0];
    choose(first ? { method: first.method, track: first.track, frame: Math.floor((first.worst[0]?.start ?? first.start) / data.methods[first.method].hop) } : {});
  }
})();
