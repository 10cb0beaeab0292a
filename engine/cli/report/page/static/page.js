"use strict";
(() => {
  const ROWS = 200;
  const FEW = 8;
  const root = document.documentElement;
  const tables = new Map();
  const redraws = [];

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && typeof value !== "string") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const labelled = (text, control) => {
    control.setAttribute("aria-label", text);
    return make("label", {}, text, control);
  };
  const choice = (names) => make("select", {}, ...names.map((name, index) => make("option", { value: String(index) }, name)));
  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  const written = (value, percent) => {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    if (percent) return `${(100 * value).toFixed(value && Math.abs(value) < 0.01 ? 3 : 2)}%`;
    if (Number.isInteger(value)) return (value || 0).toLocaleString("en");
    return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(3);
  };

  const layout = (part, height, more = {}) => {
    const axis = { gridcolor: color("line"), zerolinecolor: color("line"), linecolor: color("line"), automargin: true, title: { standoff: 12 } };
    return {
      height,
      margin: { l: 10, r: 10, t: 10, b: 10 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("ink"), family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("ink") } },
      xaxis: { ...axis, title: { ...axis.title, text: plain(part.across) } },
      yaxis: { ...axis, title: { ...axis.title, text: plain(part.down) } },
      ...more,
    };
  };
  // Plotly reads some markup in texts: names must stay what they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };

  // Differences: orange below nothing and blue above it, which everybody can tell apart.
  const BOTH_WAYS = [[0, "#d55e00"], [0.5, null], [1, "#0072b2"]];
  const reach = (values) => values.flat().reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0) || 1;

  const heatmap = (figure, part) => {
    const measures = choice(part.measures.map((each) => each.name));
    const plot = make("div", { class: "plot", role: "img", "aria-label": part.title });
    const controls = make("div", { class: "controls" });
    if (part.measures.length > 1) controls.append(labelled("Colour", measures));
    const swap = make("button", { type: "button", "aria-pressed": "false" }, "As a table");
    controls.append(swap);
    const numbers = make("div", { class: "scroll", hidden: true, tabindex: "0" });
    figure.append(controls, plot, numbers);
    if (part.table) figure.append(make("p", {}, "Click on a cell to see its tensors in the table below; the table's own lists do the same."));

    const draw = () => {
      const measure = part.measures[Number(measures.value)];
      const narrow = figure.clientWidth < 600;
      const texts = measure.values.map((row, y) => row.map((value, x) =>
        `${plain(part.down)}: ${plain(short(part.rows[y]))}<br>${plain(part.across)}: ${plain(short(part.columns[x]))}<br>${plain(measure.name)}: ${written(value, measure.percent)}`));
      const height = Math.min(1400, Math.max(220, 90 + part.rows.length * (part.rows.length > 60 ? 12 : 24)));
      const ticks = (names) => names.map((name) => plain(short(name)));
      const steps = (names, most) => Math.max(1, Math.ceil(names.length / most));
      const named = (names, most) => {
        const step = steps(names, most);
        return { tickmode: "array", tickvals: names.map((_, index) => index).filter((index) => index % step === 0), ticktext: ticks(names).filter((_, index) => index % step === 0), showgrid: false, zeroline: false };
      };
      const shape = layout(part, height);
      Object.assign(shape.xaxis, named(part.columns, narrow ? 12 : 48));
      Object.assign(shape.yaxis, named(part.rows, 60), { autorange: "reversed" });
      if (part.groups) {
        const room = part.columns.length / (narrow ? 6 : 30);
        const some = [];
        for (const group of part.groups) if (!some.length || group[1] - some.at(-1)[1] >= room) some.push(group);
        Object.assign(shape.xaxis, { tickvals: some.map((group) => group[1]), ticktext: some.map((group) => plain(short(group[0]))) });
        shape.shapes = part.groups.slice(1).map((group) => ({ type: "line", x0: group[1] - 0.5, x1: group[1] - 0.5, yref: "paper", y0: 0, y1: 1, line: { color: color("paper"), width: 2 } }));
      }
      const bounds = measure.whole ? { zmin: 0, zmax: 1 } : measure.signed ? { zmin: -reach(measure.values), zmax: reach(measure.values) } : {};
      Plotly.react(plot, [{
        type: "heatmap", z: measure.values, text: texts, hoverinfo: "text", colorscale: measure.signed ? BOTH_WAYS.map(([at, hue]) => [at, hue || color("line")]) : "Cividis", ...bounds,
        hoverongaps: false, xgap: part.columns.length > 80 ? 0 : 1, ygap: part.rows.length > 60 ? 0 : 1,
        colorbar: { thickness: 12, tickformat: measure.percent ? ".0%" : "", outlinewidth: 0, len: 1 },
      }], shape, settings);
    };
    const list = () => {
      const measure = part.measures[Number(measures.value)];
      numbers.replaceChildren(make("table", {},
        make("thead", {}, make("tr", {}, make("th", { class: "word", scope: "col" }, part.down), ...part.columns.map((name) => make("th", { scope: "col" }, name)))),
        make("tbody", {}, ...part.rows.map((name, y) => make("tr", {}, make("th", { class: "word", scope: "row" }, name), ...measure.values[y].map((value) => make("td", {}, written(value, measure.percent))))))));
    };
    const show = () => { if (!plot.hidden) draw(); if (!numbers.hidden) list(); };
    measures.addEventListener("change", show);
    swap.addEventListener("click", () => {
      plot.hidden = !plot.hidden;
      numbers.hidden = !plot.hidden;
      swap.setAttribute("aria-pressed", String(plot.hidden));
      show();
    });
    draw();
    redraws.push(show);
    plot.on("plotly_click", (event) => {
      const point = event.points[0];
      if (part.table) tables.get(part.table)?.({ [part.down]: part.rows[point.y], [part.across]: part.columns[point.x] });
    });
  };

  // Okabe and Ito's colours, and a dash for each, so that curves differ without colour.
  const HUES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const curves = (figure, part) => {
    const plot = make("div", { class: "plot", role: "img", "aria-label": part.title });
    figure.append(plot);
    const draw = () => {
      const shape = layout(part, 320, { legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, hovermode: part.points ? "closest" : "x unified" });
      if (part.percent) shape.yaxis.tickformat = ".0%";
      if (part.positions.some((each) => typeof each === "string")) shape.xaxis.type = "category";
      Plotly.react(plot, Object.entries(part.curves).map(([name, heights], index) => ({
        type: "scatter", mode: part.points ? "markers" : part.positions.length > 60 ? "lines" : "lines+markers", name: plain(short(name)),
        x: part.positions.map((each) => (typeof each === "string" ? plain(each) : each)), y: heights,
        text: heights.map((value) => written(value, part.percent)), hovertemplate: "%{text}",
        line: { color: HUES[index % HUES.length], dash: DASHES[Math.floor(index / HUES.length + index) % DASHES.length] },
      })), shape, settings);
    };
    draw();
    redraws.push(draw);
  };

  const table = (figure, part) => {
    const count = part.columns.length ? part.columns[0].values.length : 0;
    const words = part.columns.map((column) => column.values.some((value) => typeof value === "string"));
    const search = make("input", { type: "search", size: "24" });
    const lists = part.columns.map((column) => (column.choose ? choice(["all", ...new Set(column.values.map(String))]) : null));
    const copy = make("button", { type: "button" }, "Copy");
    const more = make("button", { type: "button" }, "Show more");
    const found = make("output", { "aria-live": "polite" });
    const controls = make("div", { class: "controls" });
    if (count > FEW) {
      controls.append(labelled("Filter", search));
      part.columns.forEach((column, index) => lists[index] && controls.append(labelled(column.name, lists[index])));
    }
    controls.append(copy, found);
    const heads = part.columns.map((column, index) => {
      const button = make("button", { type: "button" }, column.name);
      const head = make("th", { scope: "col", class: words[index] ? "word" : "" }, button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        order = { index, down: now ? now === "ascending" : !words[index] };
        head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
        refresh();
      });
      return head;
    });
    const body = make("tbody");
    figure.append(controls, make("div", { class: "scroll", tabindex: "0" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)), more);

    let order = null, rows = [], shown = 0;
    const lower = words.map((isWord, index) => (isWord ? part.columns[index].values.map((value) => String(value ?? "").toLowerCase()) : null));
    const grow = () => {
      const end = Math.min(rows.length, shown + ROWS);
      for (; shown < end; shown++) {
        const row = rows[shown];
        body.append(make("tr", {}, ...part.columns.map((column, index) =>
          make("td", { class: words[index] ? "word" : "" }, written(column.values[row], column.percent)))));
      }
      more.hidden = shown >= rows.length;
      found.textContent = `${rows.length.toLocaleString("en")} of ${count.toLocaleString("en")} rows`;
    };
    const refresh = () => {
      const wanted = search.value.trim().toLowerCase();
      const chosen = lists.map((list) => (list && list.value !== "0" ? list.selectedOptions[0].textContent : null));
      rows = [];
      for (let row = 0; row < count; row++) {
        if (chosen.some((name, index) => name !== null && String(part.columns[index].values[row]) !== name)) continue;
        if (wanted && !lower.some((texts) => texts && texts[row].includes(wanted))) continue;
        rows.push(row);
      }
      if (order) {
        const values = part.columns[order.index].values;
        const sign = order.down ? -1 : 1;
        const missing = (value) => value === null || value === undefined;
        rows.sort((first, second) => {
          const [a, b] = [values[first], values[second]];
          if (missing(a) || missing(b)) return missing(a) - missing(b);
          return sign * (words[order.index] ? String(a).localeCompare(String(b), "en", { numeric: true }) : a - b);
        });
      }
      body.replaceChildren();
      shown = 0;
      grow();
    };
    search.addEventListener("input", refresh);
    lists.forEach((list) => list && list.addEventListener("change", refresh));
    more.addEventListener("click", grow);
    copy.addEventListener("click", async () => {
      const cell = (value) => String(value ?? "").replace(/[\t\r\n]+/g, " ");
      const text = [part.columns.map((column) => cell(column.name)).join("\t"), ...rows.map((row) => part.columns.map((column) => cell(column.values[row])).join("\t"))].join("\n");
      let done = true;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const area = make("textarea", { readonly: "" });
        area.value = text;
        document.body.append(area);
        area.select();
        done = document.execCommand("copy");
        area.remove();
      }
      copy.textContent = done ? `Copied ${rows.length.toLocaleString("en")} rows` : "The browser does not let pages copy";
    });
    if (part.id) tables.set(part.id, (wanted) => {
      part.columns.forEach((column, index) => {
        if (!lists[index]) return;
        const place = [...lists[index].options].findIndex((option, at) => at > 0 && option.textContent === wanted[column.name]);
        lists[index].value = String(Math.max(0, place));
      });
      search.value = "";
      refresh();
      figure.scrollIntoView({ block: "start" });
    });
    refresh();
  };

  const theme = (name) => {
    root.dataset.theme = name;
    const button = document.getElementById("theme");
    button.textContent = name === "dark" ? "Light" : "Dark";
    redraws.forEach((redraw) => redraw());
  };

  const expand = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };

  const start = async () => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    root.dataset.theme = dark.matches ? "dark" : "light";
    const parts = JSON.parse(await expand("data"));
    const library = document.createElement("script");
    library.textContent = await expand("library");
    document.head.append(library);
    const makers = { heatmap, curves, table };
    parts.forEach((part, index) => makers[part.kind](document.querySelector(`figure[data-part="${index}"]`), part));
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
    theme(root.dataset.theme);
    dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
    let before = "light";
    addEventListener("beforeprint", () => { before = root.dataset.theme; theme("light"); });
    addEventListener("afterprint", () => theme(before));
    root.dataset.ready = "yes";
  };
  start().catch((error) => {
    const fault = document.getElementById("fault");
    fault.textContent = `This page cannot be shown (${error.message}). It needs a browser of 2023 or later.`;
    fault.hidden = false;
  });
})();
