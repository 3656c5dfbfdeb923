// Light, dark, or as the system says.
import { useEffect, useState } from "preact/hooks";
import { keep, kept } from "./kept.js";

const KEY = "agentcom-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

/** @typedef {{ theme: string, toggle: () => void }} Theme */

/** @returns {Theme} */
export function useTheme() {
  const [chosen, choose] = useState(kept(KEY));
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
    keep(KEY, next);
    document.documentElement.dataset.theme = next;
    choose(next);
  };
  return { theme, toggle };
}
