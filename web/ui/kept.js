// What this browser remembers for the page. Without storage it lasts as long as the page.

/** @param {string} key @returns {string | null} */
export function kept(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** @param {string} key @returns {any} what was kept as JSON, null where it is none */
export function keptJson(key) {
  try {
    return JSON.parse(kept(key) ?? "null");
  } catch {
    return null;
  }
}

/** @param {string} key @param {string} text "" to forget it */
export function keep(key, text) {
  try {
    if (text) localStorage.setItem(key, text);
    else localStorage.removeItem(key);
  } catch {
    // There is no storage, or it is full.
  }
}
