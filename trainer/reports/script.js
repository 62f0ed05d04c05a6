"use strict";
// Switches between light and dark, and shows the values of curves at the pointer.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; });

  const short = (value) => value === null ? "not finite"
    : value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6)
      ? String(+value.toPrecision(5)) : value.toExponential(3);

  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle + 1; else high = middle;
    }
    const before = points[Math.max(0, low - 1)];
    return Math.abs(before[0] - x) < Math.abs(points[low][0] - x) ? before : points[low];
  };

  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = JSON.parse(figure.dataset.chart);
    const picture = figure.querySelector("svg");
    const cursor = picture.querySelector(".cursor");
    const [low, high, start, end] = chart.x;
    const values = document.createElement("div");
    values.className = "values";
    values.hidden = true;
    figure.append(values);

    const show = (event) => {
      const box = picture.getBoundingClientRect();
      const scale = picture.viewBox.baseVal.width / box.width;
      const x = low + ((event.clientX - box.left) * scale - start) / (end - start) * (high - low);
      const found = chart.series.map((series) => [series.name, nearest(series.points, x)]);
      const step = found.map(([, point]) => point[0])
        .reduce((best, each) => Math.abs(each - x) < Math.abs(best - x) ? each : best);
      const place = start + (step - low) / (high - low) * (end - start);
      const lines = found.map(([name, [at, value]]) =>
        `${name}  ${short(value)}` + (at === step ? "" : `  (${chart.x_name} ${at})`));
      values.textContent = [`${chart.x_name} ${step}`, ...lines].join("\n");
      values.hidden = false;
      cursor.setAttribute("x1", place);
      cursor.setAttribute("x2", place);
      cursor.style.visibility = "visible";
      const left = place / scale + 8;
      const room = figure.clientWidth - values.offsetWidth;
      values.style.left = `${left <= room ? left : Math.max(0, left - values.offsetWidth - 16)}px`;
      values.style.top = `${picture.offsetTop + 6}px`;
    };
    const hide = () => { values.hidden = true; cursor.style.visibility = "hidden"; };
    picture.addEventListener("pointermove", show);
    picture.addEventListener("pointerdown", show);
    picture.addEventListener("pointerleave", hide);
  }
})();
