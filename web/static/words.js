// Times, ranges and names of strangers as people read them.

// Control and bidirectional characters could make a name look like another.
export const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

export function clock(at, isZoneSaid = true) {
  const time = new Date(at * 1000);
  const isToday = time.toDateString() === new Date().toDateString();
  return time.toLocaleString(undefined, { ...(!isToday && { dateStyle: "medium" }), timeStyle: isZoneSaid ? "long" : "medium" });
}

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].flatMap(([size, unit], i, all) => {
    const count = Math.floor((i ? seconds % all[i - 1][0] : seconds) / size);
    return count ? [`${count} ${unit}`] : [];
  });
  return parts.slice(0, 2).join(" ") || "0 s";
}

export const rangeWords = ({ since, until }) => `${clock(since, false)} – ${clock(until)}, ${duration(until - since)}`;
