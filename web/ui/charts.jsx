// uPlot in a component: made once, given new data, resized with its box.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** @typedef {uPlot.AlignedData} Data */
/** @typedef {uPlot.Axis} Axis */
/**
 * `color` names a CSS variable; `data` is [x, ...ys]; `whole`: what is counted has no halves;
 * `told` says the values at a place, where the reader points.
 * @typedef {{ label: string, color: string, bars?: boolean }} Series
 * @typedef {{
 *   label: string, series: Series[], data: Data, x?: Axis, y?: Axis, height?: number, time?: boolean,
 *   whole?: boolean, theme: string, told?: (n: number) => string,
 * }} ChartProps
 */

/** @param {string} name of a CSS variable */
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];

/**
 * @param {{ x: Axis, y: Axis, hours: boolean, whole: boolean }} options
 * @returns {Axis[]}
 */
function axes(options) {
  const line = {
    stroke: ink("--muted"),
    grid: { stroke: ink("--line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui",
  };
  return [
    {
      ...line,
      size: 24,
      values: options.hours
        ? (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, 5))
        : undefined,
      ...options.x,
    },
    { ...line, size: 46, incrs: options.whole ? WHOLE : undefined, ...options.y },
  ];
}

/** @param {ChartProps} props */
export function Chart({ label, series, data, x = {}, y = {}, height = 140, time = true, whole = false, theme, told }) {
  const [pointed, point] = useState(/** @type {number | null} */ (null));
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {uPlot | null} */ (null));
  // biome-ignore lint/correctness/useExhaustiveDependencies: made anew for other colours or series alone
  useEffect(() => {
    const here = /** @type {HTMLDivElement} */ (box.current);
    const drawn = new uPlot(
      {
        width: Math.max(here.clientWidth, 120),
        height,
        legend: { show: false },
        cursor: told ? { y: false, points: { show: false }, drag: { x: false, y: false } } : { show: false },
        hooks: told ? { setCursor: [(u) => point(u.cursor.idx ?? null)] } : {},
        scales: {
          x: { time, range: time ? undefined : ({ data: [xs] }) => [xs[0] - 0.6, xs[xs.length - 1] + 0.6] },
          y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.1 : whole ? 1 : 0.01] },
        },
        axes: axes({ x, y, hours: time, whole }),
        series: [
          {},
          ...series.map((each) => ({
            label: each.label,
            stroke: ink(each.color),
            fill: each.bars ? ink(each.color) : undefined,
            width: 2,
            points: { show: false },
            paths: each.bars ? uPlot.paths.bars?.({ size: [0.7, 40] }) : undefined,
          })),
        ],
      },
      data,
      here,
    );
    plot.current = drawn;
    const watcher = new ResizeObserver(() => drawn.setSize({ width: Math.max(here.clientWidth, 120), height }));
    watcher.observe(here);
    return () => {
      watcher.disconnect();
      drawn.destroy();
    };
  }, [theme, series.length]);
  useEffect(() => plot.current?.setData(data), [data]);
  return (
    <figure class="chart">
      <figcaption>
        {label}
        {series.length > 1 &&
          series.map((each) => (
            <span class="key">
              <i class={`swatch ${each.color.slice(2)}`} />
              {each.label}
            </span>
          ))}
      </figcaption>
      <div ref={box} role="img" aria-label={label} />
      {told && <small class="told">{pointed === null ? "\u00a0" : told(pointed)}</small>}
    </figure>
  );
}

const SPARK_HIGH = 18;

/**
 * An hour as a line beside a figure: the oldest minute first, null where there was nothing.
 * `most` is the top.
 * @param {{ values: (number | null)[] | undefined, most?: number, label: string, color?: string }} props
 */
export function Spark({ values = [], most = 0, label, color = "--c-submitted" }) {
  const top = Math.max(most, ...values.map((value) => value ?? 0)) || 1;
  const y = (/** @type {number} */ value) => (SPARK_HIGH - 1 - (value / top) * (SPARK_HIGH - 2)).toFixed(1);
  let path = "";
  let pen = "M";
  values.forEach((value, n) => {
    if (value === null) pen = "M";
    else {
      // One alone is a dot.
      path += `${pen}${n} ${y(value)}${pen === "M" && (values[n + 1] ?? null) === null ? "h.6" : ""}`;
      pen = "L";
    }
  });
  return (
    <svg
      class="spark"
      viewBox={`0 0 ${Math.max(1, values.length - 1)} ${SPARK_HIGH}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={label}
    >
      <title>{label}</title>
      <path d={path} style={{ stroke: `var(${color})` }} />
    </svg>
  );
}
