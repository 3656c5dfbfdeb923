// uPlot in a component: made once, given new data, resized with its box.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function axes(options) {
  const line = { stroke: ink("--muted"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  return [
    { ...line, size: 34, values: options.hours ? (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, 5)) : undefined, ...options.x },
    { ...line, size: 46, ...options.y },
  ];
}

// `series`: [{label, color (a CSS variable), bars?}]; `data`: [x, ...ys].
export function Chart({ label, series, data, x = {}, y = {}, height = 150, time = true, theme }) {
  const box = useRef(null);
  const plot = useRef(null);
  useEffect(() => {
    const made = new uPlot(
      {
        width: Math.max(box.current.clientWidth, 120),
        height,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time, ...(time ? {} : { range: (self) => [self.data[0][0] - 0.6, self.data[0].at(-1) + 0.6] }) }, y: { range: (_, low, high) => [Math.min(0, low), Math.max(high * 1.1, 1e-9)] } },
        axes: axes({ x, y, hours: time }),
        series: [
          {},
          ...series.map((each) => ({
            label: each.label,
            stroke: ink(each.color),
            fill: each.bars ? `${ink(each.color)}99` : undefined,
            width: 2,
            points: { show: false },
            paths: each.bars ? uPlot.paths.bars({ size: [0.7, 40] }) : undefined,
          })),
        ],
      },
      data,
      box.current,
    );
    plot.current = made;
    const watcher = new ResizeObserver(() => made.setSize({ width: Math.max(box.current?.clientWidth ?? 120, 120), height }));
    watcher.observe(box.current);
    return () => {
      watcher.disconnect();
      made.destroy();
    };
  }, [theme, series.length]);
  useEffect(() => plot.current?.setData(data), [data]);
  return (
    <figure class="chart">
      <figcaption>
        {label}
        {series.map((each) => (
          <span class="key"><i class={`swatch ${each.color.slice(2)}`} />{each.label}</span>
        ))}
      </figcaption>
      <div ref={box} role="img" aria-label={label} />
    </figure>
  );
}
