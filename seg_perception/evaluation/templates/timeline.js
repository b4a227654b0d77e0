// Draws the curves of each timeline and shows the nearest kept frame where somebody clicks or presses a key.
for (const box of document.querySelectorAll(".timeline")) {
  const track = JSON.parse(box.dataset.track); // {frames, seconds, curves: [{a, b, top, unit}]}
  const plots = [...box.querySelectorAll("svg")];
  const values = [...box.querySelectorAll(".value")];
  const figures = [...box.querySelectorAll("figure")];
  const last = Math.max(1, track.frames - 1);
  const make = (parent, name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return parent.appendChild(made);
  };
  const cursors = plots.map((plot, i) => {
    const { a, b, top } = track.curves[i];
    for (const [side, series] of [["a", a], ["b", b]]) {
      const points = series.map((v, k) => `${(1000 * k) / last},${98 - (96 * v) / top}`);
      make(plot, "path", { class: side, d: "M" + points.join("L") });
    }
    return make(plot, "line", { class: "now", x1: 0, x2: 0, y1: 0, y2: 100 });
  });
  let shown = 0;
  const show = (place) => {
    shown = Math.min(Math.max(place, 0), figures.length - 1);
    figures.forEach((figure, i) => (figure.hidden = i !== shown));
    const frame = Number(figures[shown].dataset.frame);
    for (const cursor of cursors) {
      cursor.setAttribute("x1", (1000 * frame) / last);
      cursor.setAttribute("x2", (1000 * frame) / last);
    }
    track.curves.forEach(({ a, b, unit }, i) => {
      values[i].textContent = `A ${a[frame]} ${unit}, B ${b[frame]} ${unit}`;
    });
    const seconds = track.seconds[frame]; // null of a picture among films
    box.querySelector(".where").textContent = `frame ${frame}` + (seconds === null ? "" : `, ${seconds.toFixed(2)} s`);
  };
  for (const plot of plots) {
    plot.addEventListener("click", (event) => {
      const area = plot.getBoundingClientRect();
      const frame = (last * (event.clientX - area.left)) / area.width;
      const far = figures.map((figure) => Math.abs(Number(figure.dataset.frame) - frame));
      show(far.indexOf(Math.min(...far)));
    });
  }
  box.querySelector(".back").addEventListener("click", () => show(shown - 1));
  box.querySelector(".on").addEventListener("click", () => show(shown + 1));
  show(0);
}
