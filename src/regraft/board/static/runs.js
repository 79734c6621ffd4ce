"use strict";
// Results: curves (drawn by uPlot, live while a run trains) and the choice of two runs to compare.
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shortened = (value) => value == null ? "–" : Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  const SHOWN = 8;

  class Curves {
    constructor(box) {
      this.box = box;
      this.charts = new Map();
      this.tag = null;
      this.data = null;
      this.words = box.querySelector("[data-words]");
      new ResizeObserver(() => this.resize()).observe(box);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
      this.load();
    }

    width() {
      const columns = this.box.clientWidth >= 866 ? 2 : 1;
      return Math.max(240, Math.floor((this.box.clientWidth - 24 * (columns - 1)) / columns));
    }

    async fetched(url, tag) {
      const answer = await fetch(`${url}?width=${this.width()}`, { headers: { Accept: "application/json", ...(tag ? { "If-None-Match": tag } : {}) } });
      if (answer.status === 304) return null;
      if (!answer.ok) throw new Error(String(answer.status));
      return { ...(await answer.json()), tag: answer.headers.get("ETag") };
    }

    async load() {
      let wait = 2000;
      try {
        const found = await this.fetched(this.box.dataset.url, this.tag);
        if (found !== null) {
          this.tag = found.tag;
          const other = this.box.dataset.other ? await this.fetched(this.box.dataset.other) : null;
          const before = this.box.dataset.state;
          if (before === "running" && found.state === "finished") return void location.reload();
          this.box.dataset.state = found.state;
          this.show(other === null ? this.single(found) : this.paired(found, other), found);
        }
        window.regraft?.connection("saved");
      } catch {
        wait = 8000;
        if (!this.data) this.say("The curves cannot be loaded now.");
        window.regraft?.connection("offline");
      }
      if (this.box.dataset.state === "running") setTimeout(() => document.hidden ? this.whenSeen() : this.load(), wait);
    }

    whenSeen() {
      document.addEventListener("visibilitychange", () => this.load(), { once: true });
    }

    single(found) {
      return found.charts.map((chart) => ({
        name: chart.name, data: [chart.x, ...chart.series.map((one) => one.y)],
        names: chart.series.map((one) => one.name),
      }));
    }

    paired(a, b) {
      const others = new Map(b.charts.map((chart) => [chart.name, chart]));
      return a.charts.filter((chart) => others.has(chart.name)).map((chart) => {
        const other = others.get(chart.name);
        const tables = [chart, other].map((one) => [one.x, ...one.series.map((series) => series.y)]);
        return {
          name: chart.name, data: uPlot.join(tables),
          names: [...chart.series.map((one) => `A ${one.name}`), ...other.series.map((one) => `B ${one.name}`)],
        };
      });
    }

    say(words) {
      if (!this.words) return;
      this.words.textContent = words;
      this.words.hidden = !words;
    }

    show(charts, found) {
      this.data = charts;
      this.say(charts.length ? "" : found.state === "running" ? "Nothing was measured yet." : "This run has no curves.");
      charts.forEach((chart, number) => this.draw(chart, number));
      this.box.dataset.drawn = String(charts.length);
      this.box.dataset.rows = String(found.rows);
    }

    holder(number) {
      if (number < SHOWN) return this.box;
      if (!this.rest) {
        this.rest = document.createElement("details");
        this.rest.className = "more-charts";
        const summary = document.createElement("summary");
        summary.textContent = "More measures";
        const inner = document.createElement("div");
        inner.className = "curves";
        this.rest.append(summary, inner);
        this.box.append(this.rest);
      }
      return this.rest.lastElementChild;
    }

    draw(chart, number) {
      let known = this.charts.get(chart.name);
      const signature = chart.names.join("\n");
      if (known && known.signature !== signature) {
        known.plot.destroy();
        known.figure.remove();
        known = undefined;
      }
      if (!known) {
        const figure = document.createElement("figure");
        const caption = document.createElement("figcaption");
        caption.textContent = chart.name.replaceAll("_", " ");
        const last = document.createElement("span");
        last.className = "quiet";
        caption.append(last);
        figure.append(caption);
        this.holder(number).append(figure);
        known = { figure, last, signature, plot: this.plot(chart, figure) };
        this.charts.set(chart.name, known);
      } else {
        known.plot.setData(chart.data);
      }
      const ends = chart.names.map((name, i) => [name, chart.data[i + 1].findLast((value) => value != null)]);
      known.last.textContent = ends.map(([name, value]) => `${name} ${shortened(value)}`).join("  ·  ");
    }

    plot(chart, figure) {
      const colours = [css("--accent"), css("--second"), css("--fine"), css("--wrong"), css("--caution"), css("--quiet")];
      const axis = { stroke: css("--quiet"), grid: { stroke: css("--hair"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
      const values = (_, splits) => splits.map((value) => shortened(value));
      const sparse = chart.data[0].length <= 40;
      const paired = chart.names[0].startsWith("A ") && this.box.dataset.other;
      return new uPlot({
        width: this.width(), height: 220, padding: [10, 10, 0, 0],
        cursor: { drag: { x: true, y: false }, points: { size: 7 } },
        scales: { x: { time: false } },
        axes: [{ ...axis, values }, { ...axis, size: 66, values }],
        series: [
          { label: "step", value: (_, value) => shortened(value) },
          ...chart.names.map((name, i) => ({
            label: name, stroke: paired ? colours[name.startsWith("A ") ? 1 : 0] : colours[i % colours.length], width: 1.8, spanGaps: true,
            dash: (paired ? i % Math.max(1, chart.names.filter((one) => one.startsWith("A ")).length) : i) % 2 ? [6, 4] : undefined,
            points: { show: sparse, size: 5 }, value: (_, value) => shortened(value),
          })),
        ],
        legend: { live: true },
      }, chart.data, figure);
    }

    resize() {
      const width = this.width();
      for (const { plot } of this.charts.values()) if (plot.width !== width) plot.setSize({ width, height: 220 });
    }

    redraw() {
      for (const { plot, figure } of this.charts.values()) { plot.destroy(); figure.remove(); }
      this.charts.clear();
      this.rest?.remove();
      this.rest = null;
      if (this.data) this.data.forEach((chart, number) => this.draw(chart, number));
    }
  }

  const box = document.getElementById("curves");
  if (box) new Curves(box);

  // Two runs to compare: the choice outlives a new table, and a third one lets the oldest go.
  let chosen = [];
  const tell = () => {
    const bar = document.getElementById("compare-bar");
    if (!bar) return;
    bar.querySelector("button").disabled = chosen.length !== 2;
    bar.querySelector(".note").textContent = chosen.length === 2 ? chosen.join("  and  ") : "choose a second run";
  };
  document.addEventListener("change", (event) => {
    if (!event.target.matches?.(".pick input")) return;
    chosen = chosen.filter((key) => key !== event.target.value);
    if (event.target.checked) chosen.push(event.target.value);
    while (chosen.length > 2) {
      const left = chosen.shift();
      for (const other of document.querySelectorAll(".pick input")) if (other.value === left) other.checked = false;
    }
    tell();
  });
  document.addEventListener("htmx:afterSwap", () => {
    const boxes = [...document.querySelectorAll(".pick input")];
    chosen = chosen.filter((key) => boxes.some((one) => one.value === key));
    for (const one of boxes) one.checked = chosen.includes(one.value);
    tell();
  });
})();
