// The parts of a page that is open, from a newer one.

export function takeParts(fresh) {
  for (const part of document.querySelectorAll("[data-part]")) {
    const stops = () => [...part.querySelectorAll("a, button, summary")];
    const focused = stops().indexOf(document.activeElement);
    const next = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
    part.replaceChildren(...(next?.childNodes ?? []));
    window.enhance(part);
    if (focused >= 0) stops()[focused]?.focus();
  }
}
