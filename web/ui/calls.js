// Calls of tools that a model makes of its client, who is to answer them.

/**
 * Calls of tools as a chat streams them: a line of JSON for each piece, here as one reads them.
 * @param {string} text
 */
export function called(text) {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      try {
        const { name = "", arguments: given = "" } = JSON.parse(line).function;
        return name ? `\ncalls ${name} ${given}` : given;
      } catch {
        return line;
      }
    })
    .join("");
}
