"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures-data").textContent);
  const archs = JSON.parse(document.getElementById("archs-data").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  // Colours are names of the style, so that a figure follows the theme of the page.
  const styled = (value, style) => {
    if (Array.isArray(value)) return value.map((item) => styled(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, styled(item, style)]));
    }
    const named = typeof value === "string" && value.match(/^var\((--[\w-]+)\)$/);
    return named ? style.getPropertyValue(named[1]).trim() : value;
  };

  const axis = (style, own) => ({
    gridcolor: style.getPropertyValue("--grid").trim(),
    linecolor: style.getPropertyValue("--line").trim(),
    zeroline: false, automargin: true, ...own,
    title: { standoff: 10, ...(own.title || {}) },
  });

  const draw = (plot) => {
    const figure = figures[plot.dataset.figure];
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    const variant = figure.variants && figure.variants[plot.dataset.variant || 0];
    const data = styled(figure.data, style);
    const layout = styled(figure.layout, style);
    layout.xaxis = axis(style, layout.xaxis);
    layout.yaxis = axis(style, layout.yaxis);
    if (variant) {
      data.forEach((trace, number) => { trace.x = variant.x[number]; });
      layout.xaxis.title.text = variant.title;
      layout.shapes = styled(variant.shapes, style);
      layout.annotations = variant.annotations;
    }
    const small = plot.clientWidth < 520;
    Plotly.react(plot, data, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, Segoe UI, Liberation Sans, sans-serif", size: small ? 11 : 13, color: ink },
      margin: { l: 50, r: 16, t: 34, b: 46 }, hovermode: "closest", dragmode: false,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: small ? 10 : 12 } },
      hoverlabel: { align: "left", bgcolor: style.getPropertyValue("--raised").trim(), bordercolor: ink, font: { color: ink, size: 12 } },
      showlegend: data.filter((trace) => trace.name && trace.showlegend !== false).length > 1,
      ...layout,
    }, { responsive: true, displayModeBar: false, scrollZoom: false });
  };

  // The arrow keys walk through the points of the figure's main curve.
  const walk = (plot) => {
    let at = -1;
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") Plotly.Fx.unhover(plot);
      if (!step) return;
      const curve = figures[plot.dataset.figure].walk || 0;
      const count = plot.data[curve].x.length;
      at = (at + step + count) % count;
      event.preventDefault();
      const cells = plot.data[curve].z;
      Plotly.Fx.hover(plot, [cells
        ? { curveNumber: curve, pointNumber: [Math.floor(at / count) % cells.length, at] }
        : { curveNumber: curve, pointNumber: at }]);
    });
    plot.addEventListener("blur", () => Plotly.Fx.unhover(plot));
  };

  plots.forEach((plot) => { draw(plot); walk(plot); });
  document.querySelectorAll("select[data-for]").forEach((select) => {
    select.addEventListener("change", () => {
      const plot = document.getElementById(`plot-${select.dataset.for}`);
      plot.dataset.variant = select.value;
      draw(plot);
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(draw));

  // Paper has the width of a page and nothing to unfold.
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not(.settings)").forEach((part) => { part.open = true; });
    plots.forEach((plot) => Plotly.relayout(plot, { width: Math.min(plot.clientWidth, 660) }));
  });
  addEventListener("afterprint", () => plots.forEach((plot) => Plotly.relayout(plot, { width: null })));

  // A link to an arch unfolds it.
  const unfold = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
    }
  };
  addEventListener("hashchange", unfold);
  unfold();

  // Two archs of one space, choice by choice.
  const [first, second] = ["first", "second"].map((id) => document.getElementById(id));
  if (!first) return;
  const element = (tag, text, kind) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const line = (kind, cells, tag = "td") => {
    const row = document.createElement("tr");
    row.className = kind;
    cells.forEach((text, number) => {
      const cell = element(number ? tag : "th", text);
      if (cell.tagName === "TH") cell.scope = tag === "th" ? "col" : "row";
      row.append(cell);
    });
    return row;
  };
  const compare = () => {
    const [one, two] = [archs[first.value], archs[second.value]];
    const place = document.getElementById("differences");
    place.replaceChildren();
    if (one.space !== two.space || !one.drawing || !two.drawing) {
      place.append(element("p", `${one.space} and ${two.space} are different spaces: their blocks do not compare.`, "dim"));
      return;
    }
    const names = [...new Set([...one.drawing.parts, ...two.drawing.parts].map(([name]) => name))];
    const [ours, theirs] = [one, two].map((arch) => new Map(arch.drawing.parts));
    const odd = names.filter((name) => ours.get(name) !== theirs.get(name));
    const costs = Object.keys(one.costs).filter((cost) => cost in two.costs);
    const said = costs.map((cost) => {
      const share = 100 * (two.costs[cost] / one.costs[cost] - 1);
      return `${one.shown[cost].title} ${share >= 0 ? "+" : "−"}${Math.abs(share).toFixed(1)} %`;
    });
    place.append(element("p", `${odd.length} of ${names.length} differ. From the first to the second: ${said.join(", ")}.`));
    const table = document.createElement("table");
    const head = document.createElement("thead");
    const body = document.createElement("tbody");
    head.append(line("", ["choice", "first", "second"], "th"));
    names.forEach((name) => body.append(line(ours.get(name) === theirs.get(name) ? "same" : "differs",
      [name, ours.get(name) || "–", theirs.get(name) || "–"])));
    costs.forEach((cost) => body.append(line("differs", [one.shown[cost].title, one.shown[cost].text, two.shown[cost].text])));
    table.append(head, body);
    const scroll = element("div", "", "scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Differences of two archs");
    scroll.append(table);
    place.append(scroll);
  };
  [first, second].forEach((select, number) => {
    archs.forEach((arch, index) => {
      const option = element("option", arch.arch + (arch.shown.flops ? ` (${arch.shown.flops.text} FLOPs)` : ""));
      option.value = index;
      select.append(option);
    });
    const alike = archs.map((arch) => arch.space).lastIndexOf(archs[0].space);
    select.value = number ? alike : 0;
    select.addEventListener("change", compare);
  });
  compare();
})();
