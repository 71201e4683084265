// Colours of frames, and those of everything else, in light and in dark.
import { binaryOf, functionKey } from "./model.js";

// Set on the picture as CSS properties, which its attributes name: a strict Content-Security-Policy allows that.
const THEMES = {
  light: { ink: "#2b2a26", soft: "#5f5b50", faint: "#6f6a5c", card: "#ffffff", edge: "#cfc9b8", on: "#f3e3b0", accent: "#1d4ed8", selection: "#bfdbfe", bad: "#b91c1c", found: "#a21caf", outline: "#3f3a2c", narrow: "#b9b3a1", label: "#1b1a17", dimmed: "#1b1a17" },
  dark: { ink: "#ece8e1", soft: "#b3aca0", faint: "#a39c91", card: "#2b2825", edge: "#4b463f", on: "#5c4a17", accent: "#8ab4ff", selection: "#1e3a5f", bad: "#ff8787", found: "#e599f7", outline: "#fffaf0", narrow: "#6b655a", label: "#161512", dimmed: "#d8d2c8" },
};
export const MATCH = "#c026d3";
const DARK_PAPER = "#1c1a18";

export const isDark = () => window.matchMedia("(prefers-color-scheme: dark)").matches;

export function dress(svg, paper) {
  const dark = isDark();
  for (const [name, value] of Object.entries(dark ? THEMES.dark : THEMES.light)) svg.style.setProperty(`--fg-${name}`, value);
  paper.forEach((colour, stop) => svg.style.setProperty(`--fg-paper${stop}`, dark ? mixed(DARK_PAPER, colour, 0.04) : colour));
}

const parts = (colour) => [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));

function mixed(colour, other, share) {
  const others = parts(other);
  return `#${parts(colour).map((part, i) => Math.round(part + share * (others[i] - part)).toString(16).padStart(2, "0")).join("")}`;
}

// The colour of each node's frame, as a function of the node: what changed, or its kind, module or name.
export function painter(picture) {
  const { model, tree, data, diff, change, state } = picture;
  const { frames } = model;
  const dark = isDark();
  const known = new Map();
  const shaded = (key, make) => {
    if (!known.has(key)) known.set(key, onPaper(make(), dark));
    return known.get(key);
  };
  const byKind = (frame) => data.kinds[frames.kind[frame]].shades[frames.shade[frame]];
  if (diff && state.colour === "kind") {
    const colourOf = (step) => (step > 0 ? diff.grew[step - 1] : step < 0 ? diff.shrank[-step - 1] : diff.unchanged);
    return (node) => shaded(change[node], () => colourOf(change[node]));
  }
  const plain = (frame) => frames.isFolded[frame] || (state.colour === "module" && !frames.binary[frame]) || (frame === tree.frame[0] && !tree.side);
  if (state.colour === "kind") return (node) => shaded(tree.frame[node], () => byKind(tree.frame[node]));
  return (node) => {
    const frame = tree.frame[node];
    return shaded(frame, () => (plain(frame) ? byKind(frame) : state.colour === "module" ? hashed(binaryOf(model, frame)) : warm(functionKey(model, frame))));
  };
}

const onPaper = (colour, dark) => (dark ? mixed(colour, DARK_PAPER, 0.22) : colour);

export const moduleColour = (binary) => onPaper(hashed(binary), isDark());

function hashed(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b) >>> 0;
  return fromHsl(hash % 360, 0.5 + ((hash >>> 9) % 3) * 0.12, 0.68 + ((hash >>> 12) % 3) * 0.05);
}

// From red to yellow, as flame graphs were first drawn.
function warm(key) {
  const hash = Number.parseInt(key.slice(8), 16);
  return fromHsl(8 + (hash % 45), 0.85, 0.62 + ((hash >>> 8) % 16) / 100);
}

function fromHsl(hue, saturation, lightness) {
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    const value = lightness - saturation * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1));
    return Math.round(255 * value).toString(16).padStart(2, "0");
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}
