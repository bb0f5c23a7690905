// A line chart as SVG.

const WIDTH = 300;
const HEIGHT = 100;

/** `draw` takes points `[at, value, value..]` in the order of time, which of them come after a hole, and times of vertical marks. */
export function chart({ names, isSmall = false, label }) {
  const svg = shape("svg", { class: `chart${isSmall ? " small" : ""}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  const grid = shape("path", { class: "grid", d: isSmall ? "" : `M0 1H${WIDTH}M0 50H${WIDTH}M0 99H${WIDTH}` });
  const mark = shape("path", { class: "mark" });
  const lines = names.map((_, at) => shape("path", { class: ["first", "second"][at] }));
  svg.append(grid, mark, ...lines);

  function draw(points, { from, to, low, high, holes = [], marks = [] }) {
    const x = (at) => round(((at - from) / (to - from || 1)) * WIDTH);
    const y = (value) => round(HEIGHT - 3 - ((value - low) / (high - low || 1)) * (HEIGHT - 6));
    lines.forEach((line, index) => {
      const steps = points.map((point, at) => `${at === 0 || holes[at] ? "M" : "L"}${x(point[0])} ${y(point[index + 1])}`);
      line.setAttribute("d", steps.join(""));
    });
    mark.setAttribute("d", marks.filter((at) => at > from).map((at) => `M${x(at)} 0V${HEIGHT}`).join(""));
  }

  return { svg, draw };
}

function shape(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const round = (number) => Math.round(number * 100) / 100;
