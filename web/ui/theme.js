// Light, dark, or as the system says.
import { useEffect, useState } from "preact/hooks";

const KEY = "agentcom-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** @typedef {{ theme: string, toggle: () => void }} Theme */

/** @returns {Theme} */
export function useTheme() {
  const [chosen, choose] = useState(stored());
  const [dark, setDark] = useState(system.matches);
  useEffect(() => {
    const tell = () => setDark(system.matches);
    system.addEventListener("change", tell);
    return () => system.removeEventListener("change", tell);
  }, []);
  const theme = chosen ?? (dark ? "dark" : "light");
  if (document.documentElement.dataset.theme !== theme) document.documentElement.dataset.theme = theme;
  const toggle = () => {
    const next = theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
    document.documentElement.dataset.theme = next;
    choose(next);
  };
  return { theme, toggle };
}
