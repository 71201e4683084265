// The picture as an image.
import { allFrames } from "./draw.js";

// A copy of all of it. Once this returns, what is on the screen is as it was, so nobody sees how it was made.
function still(picture, drawSurroundings) {
  const { svg, byKeyboard } = picture;
  Object.assign(picture, { isStill: true, byKeyboard: false });
  drawSurroundings();
  const copy = svg.cloneNode(true);
  copy.querySelector("#fg-frames").replaceChildren(allFrames(picture));
  Object.assign(picture, { isStill: false, byKeyboard });
  drawSurroundings();
  copy.querySelector("#fg-ring").remove();
  return copy;
}

// A Promise of a Blob of image/png, with as many pixels as the screen has, two for each of CSS at least.
export async function toPng(picture, drawSurroundings) {
  const { width } = picture;
  const copy = still(picture, drawSurroundings);
  const height = Number(copy.getAttribute("height"));
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  for (const element of copy.querySelectorAll("script, metadata")) element.remove();
  const source = new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
  const address = URL.createObjectURL(source);
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = html("canvas");
    // Browsers refuse canvases that are larger.
    const scale = Math.min(Math.max(2, window.devicePixelRatio), 16_000 / Math.max(width, height));
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The browser cannot make an image of this size."))), "image/png"));
  } finally {
    URL.revokeObjectURL(address);
  }
}

// In a document of XML, createElement() makes none of HTML.
const html = (name) => document.createElementNS(new Image().namespaceURI, name);

export async function save(picture, drawSurroundings) {
  const blob = await toPng(picture, drawSurroundings);
  const link = html("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${picture.caption.title.replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 80) || "flamegraph"}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
