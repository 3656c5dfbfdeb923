// Colours and decorations of terminals (CSI ... m), as styles with a number, and how they look.

/**
 * A colour is null (none said), 0 to 255 of the table, or 0x1000000 + rgb.
 * @typedef {{ fg: number | null, bg: number | null, flags: number }} Style
 * @typedef {{ color: string, background: string, flags: string }} Look
 */

export const PLAIN = 0;
const RGB = 0x1000000;
const BOLD = 1;
const DIM = 2;
const ITALIC = 4;
const UNDERLINE = 8;
const INVERSE = 16;
const STRUCK = 32;
const HIDDEN = 64;
/** @type {[number, string][]} */
const NAMES = [
  [BOLD, "ansi-bold"],
  [DIM, "ansi-dim"],
  [ITALIC, "ansi-italic"],
  [UNDERLINE, "ansi-underline"],
  [STRUCK, "ansi-strikethrough"],
];
/** @type {Record<number, number>} what a parameter sets */
const ON = { 1: BOLD, 2: DIM, 3: ITALIC, 4: UNDERLINE, 7: INVERSE, 8: HIDDEN, 9: STRUCK };
/** @type {Record<number, number>} what a parameter takes away */
const OFF = { 21: BOLD, 22: BOLD | DIM, 23: ITALIC, 24: UNDERLINE, 27: INVERSE, 28: HIDDEN, 29: STRUCK };

/** @type {Style[]} every style that was met, by its number */
const styles = [{ fg: null, bg: null, flags: 0 }];
/** @type {Map<string, number>} */
const numbers = new Map([["null/null/0", PLAIN]]);
const MOST_STYLES = 20_000;

/** @param {Style} style @returns {number} */
function numberOf(style) {
  const key = `${style.fg}/${style.bg}/${style.flags}`;
  const known = numbers.get(key);
  if (known !== undefined) return known;
  if (styles.length >= MOST_STYLES) return PLAIN; // a rainbow without end goes on without colour
  numbers.set(key, styles.push(style) - 1);
  return styles.length - 1;
}

/** @type {Map<string, number>[]} by style: where parameters that were met lead from it */
const ways = [];

/**
 * The style after a sequence's parameters, "1;38;5;196".
 * @param {number} before @param {string} params @returns {number}
 */
export function restyled(before, params) {
  ways[before] ??= new Map();
  const known = ways[before].get(params);
  if (known !== undefined) return known;
  const style = obeyed(before, params);
  if (ways[before].size < MOST_STYLES) ways[before].set(params, style);
  return style;
}

/** @param {number} before @param {string} params @returns {number} */
function obeyed(before, params) {
  if (/[<-?]/.test(params)) return before; // a question of modes, not of colours
  let { fg, bg, flags } = styles[before];
  const all = params.split(";");
  for (let n = 0; n < all.length; n += 1) {
    const [first, ...sub] = all[n].split(":");
    const code = Number(first || 0);
    if (code === 0) [fg, bg, flags] = [null, null, 0];
    else if (ON[code]) flags |= first === "4" && sub[0] === "0" ? 0 : ON[code];
    else if (OFF[code]) flags &= ~OFF[code];
    else if (code >= 30 && code <= 37) fg = code - 30;
    else if (code >= 40 && code <= 47) bg = code - 40;
    else if (code >= 90 && code <= 97) fg = code - 82;
    else if (code >= 100 && code <= 107) bg = code - 92;
    else if (code === 39) fg = null;
    else if (code === 49) bg = null;
    else if (code === 38 || code === 48) {
      // 38;5;n and 38;2;r;g;b, or with colons, where a colour space may stand before r.
      const rest = sub.length ? sub : all.slice(n + 1, n + 5);
      const colour = extended(rest, sub.length > 0);
      if (!sub.length) n += rest[0] === "5" ? 2 : rest[0] === "2" ? 4 : 0;
      if (colour !== null && code === 38) fg = colour;
      else if (colour !== null) bg = colour;
    }
  }
  return numberOf({ fg, bg, flags });
}

/** @param {string[]} rest @param {boolean} colons @returns {number | null} */
function extended(rest, colons) {
  if (rest[0] === "5") return Math.min(255, Number(rest[1]) || 0);
  if (rest[0] !== "2") return null;
  const from = colons && rest.length > 4 ? 2 : 1;
  const [r, g, b] = rest.slice(from, from + 3).map((each) => Math.min(255, Number(each) || 0));
  return RGB + ((r ?? 0) << 16) + ((g ?? 0) << 8) + (b ?? 0);
}

// -- how a style looks -----------------------------------------------------------------

/** @typedef {{ ink: string, ground: string, fg: string[], bg: string[] }} Palette */

/** @type {Record<string, Palette>} the eight colours; their bright ones are the same here */
const PALETTES = {
  light: {
    ink: "#1b2330",
    ground: "#fbfbfc",
    fg: ["#5b6576", "#b4232a", "#11733b", "#8a5300", "#1a56b0", "#5f2397", "#0e6f7c", "#1b2330"],
    bg: ["#e3e7ee", "#fbd5d5", "#cdeed8", "#fdecc0", "#dbe9fd", "#ecdffb", "#cff3f8", "#eef1f6"],
  },
  dark: {
    ink: "#e4e9f1",
    ground: "#0b0e13",
    fg: ["#97a3b6", "#ff8a87", "#5fd38d", "#f4bd50", "#82b1ff", "#e4ccff", "#67e8f9", "#e4e9f1"],
    bg: ["#000000", "#5b1d1d", "#14412a", "#4d3a0b", "#1a3768", "#45236b", "#134650", "#3a4454"],
  },
};
const TABLE = [0, 95, 135, 175, 215, 255];
const ENOUGH = 4.5; // contrast, as WCAG has it

/** @typedef {[number, number, number]} Rgb */

/** @param {number} colour @param {string[]} eight @returns {Rgb} */
function rgbOf(colour, eight) {
  if (colour >= RGB) return [(colour >> 16) & 255, (colour >> 8) & 255, colour & 255];
  if (colour < 16) return parsed(eight[colour % 8]);
  if (colour >= 232) {
    const grey = 8 + (colour - 232) * 10;
    return [grey, grey, grey];
  }
  const n = colour - 16;
  return [TABLE[Math.floor(n / 36)], TABLE[Math.floor(n / 6) % 6], TABLE[n % 6]];
}

/** @param {string} hex @returns {Rgb} */
function parsed(hex) {
  const n = Number.parseInt(hex.slice(1), 16);
  return [(n >> 16) & 255, (n >> 8) & 255, n & 255];
}

/** @param {Rgb} rgb */
function luminance(rgb) {
  const [r, g, b] = rgb.map((each) => {
    const part = each / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** @param {Rgb} one @param {Rgb} other */
export function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/**
 * The colour, moved towards white or black until it can be read on the ground.
 * @param {Rgb} colour @param {Rgb} ground @returns {Rgb}
 */
export function readable(colour, ground) {
  const goal = luminance(ground) > 0.18 ? 0 : 255;
  let moved = colour;
  for (let step = 0; step <= 10 && contrast(moved, ground) < ENOUGH; step += 1)
    moved = /** @type {Rgb} */ (colour.map((each) => Math.round(each + ((goal - each) * step) / 10)));
  return moved;
}

/** @type {Map<string, Look>} */
const looks = new Map();
/** @param {Rgb} rgb */
const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/**
 * How a style looks; "" where nothing is said.
 * @param {number} number @param {string} theme light or dark @returns {Look}
 */
export function look(number, theme) {
  const key = `${theme}${number}`;
  const known = looks.get(key);
  if (known) return known;
  const { fg, bg, flags } = styles[number] ?? styles[PLAIN];
  const palette = PALETTES[theme] ?? PALETTES.light;
  let ink = fg === null ? null : rgbOf(fg, palette.fg);
  let ground = bg === null ? null : rgbOf(bg, palette.bg);
  if (flags & INVERSE) [ink, ground] = [ground ?? parsed(palette.ground), ink ?? parsed(palette.ink)];
  const under = ground ?? parsed(palette.ground);
  if (flags & HIDDEN) ink = under;
  else if (ink || ground) ink = readable(ink ?? parsed(palette.ink), under);
  const made = {
    color: ink ? css(ink) : "",
    background: ground ? css(ground) : "",
    flags: NAMES.filter(([flag]) => flags & flag)
      .map(([, name]) => name)
      .join(" "),
  };
  looks.set(key, made);
  return made;
}
