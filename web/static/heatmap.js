// Draws a heat map of /api/v1/heatmap: all of it as a line on top, a row for each name, and the time below.

export const STRIP = 46;
export const ROW = 18;
export const AXIS = 22;
const TICKS = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172_800, 604_800, 2_592_000];

export const heightOf = (map) => STRIP + ROW * Math.max(map.rows.length, 1) + AXIS;

// What a value means: CPUs that were busy, as long as there are windows of; their share of those online; or a count.
export function valueAt(map, values, column, asShare) {
  const value = values[column];
  if (value === null || value === undefined) return null;
  if (map.by === "share" && values !== map.total) return value;
  const busy = value / (map.covered[column] || map.step);
  return asShare ? busy / (map.online[column] || Infinity) : busy;
}

export function peakOf(map, asShare, rows = map.rows.map((row) => row.values)) {
  let peak = 0;
  for (const values of rows) for (let i = 0; i < map.columns; i++) peak = Math.max(peak, valueAt(map, values, i, asShare) ?? 0);
  return peak;
}

export function draw(canvas, map, view, asShare) {
  const width = canvas.clientWidth, height = heightOf(map), scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const style = getComputedStyle(canvas);
  const token = (name) => style.getPropertyValue(name).trim();
  const ramp = [0, 1, 2, 3].map((i) => rgb(token(`--heat-${i}`)));
  const x = (at) => ((at - view.since) / (view.until - view.since)) * width;
  const gap = hatched(context, token("--gap"));
  const left = (column) => Math.floor(x(map.start + column * map.step));

  const peak = peakOf(map, asShare);
  map.rows.forEach((row, number) => {
    const y = STRIP + number * ROW;
    for (let column = 0; column < map.columns; column++) {
      const value = valueAt(map, row.values, column, asShare);
      const at = left(column);
      if (value === null) context.fillStyle = gap;
      else context.fillStyle = mixed(ramp, peak ? value / peak : 0);
      context.fillRect(at, y, left(column + 1) - at, ROW - 1);
    }
  });
  drawTotal(context, map, asShare, left, token);
  drawTimes(context, view, x, width, height, token, style.fontFamily);
}

function drawTotal(context, map, asShare, left, token) {
  const peak = peakOf(map, asShare, [map.total]) || 1;
  const y = (value) => STRIP - 4 - (value / peak) * (STRIP - 16);
  context.fillStyle = token("--fill");
  context.strokeStyle = token("--accent");
  context.lineWidth = 1.5;
  for (let column = 0; column < map.columns; column++) {
    const value = valueAt(map, map.total, column, asShare);
    if (value === null) continue;
    const [from, to] = [left(column), left(column + 1)];
    context.fillRect(from, y(value), to - from, STRIP - 4 - y(value));
    context.beginPath();
    const before = column ? valueAt(map, map.total, column - 1, asShare) : null;
    context.moveTo(from, before === null ? y(value) : y(before));
    context.lineTo(from, y(value));
    context.lineTo(to, y(value));
    context.stroke();
  }
}

function drawTimes(context, view, x, width, height, token, family) {
  const span = view.until - view.since;
  const step = TICKS.find((seconds) => (seconds / span) * width >= 76) ?? TICKS.at(-1);
  const offset = -new Date(view.since * 1000).getTimezoneOffset() * 60;
  context.font = `11px ${family}`;
  context.textBaseline = "bottom";
  for (let at = Math.ceil((view.since + offset) / step) * step - offset; at < view.until; at += step) {
    const place = Math.round(x(at)) + 0.5;
    context.fillStyle = token("--line");
    context.fillRect(place - 0.5, height - AXIS, 1, 6);
    context.fillStyle = token("--soft");
    const text = tick(at, step);
    const half = context.measureText(text).width / 2;
    context.fillText(text, Math.min(Math.max(place - half, 0), width - 2 * half), height);
  }
}

function tick(at, step) {
  const time = new Date(at * 1000);
  const midnight = time.getHours() === 0 && time.getMinutes() === 0 && time.getSeconds() === 0;
  if (step >= 86400 || midnight) return time.toLocaleDateString(undefined, { month: "short", day: "numeric" });
  return time.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) });
}

function hatched(context, colour) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.lineWidth = 1.2;
  for (const from of [-3, 3, 9]) {
    pen.beginPath();
    pen.moveTo(from - 4, 7);
    pen.lineTo(from + 4, -1);
    pen.stroke();
  }
  return context.createPattern(tile, "repeat");
}

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

// Small values are told apart better than large ones: most of a heat map is small.
function mixed(ramp, share) {
  const place = Math.min(Math.max(share, 0), 1) ** 0.6 * (ramp.length - 1);
  const i = Math.min(Math.floor(place), ramp.length - 2);
  return `rgb(${ramp[i].map((c, channel) => Math.round(c + (ramp[i + 1][channel] - c) * (place - i))).join(" ")})`;
}
