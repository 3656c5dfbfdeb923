import assert from "node:assert/strict";
import { test } from "node:test";
import { fleetOf, slotsOf, troubles } from "../ui/fleetlist.js";

const endpoint = (more = {}) => ({
  endpoint: "e",
  kind: "ollama",
  up: true,
  slots: 2,
  models: [],
  loaded: [],
  ...more,
});
const host = (name, more = {}) => ({
  ...{ host: name, state: "up", since: "2026-01-01T00:00:00Z", platform: "Linux", version: "1", slots: { shell: 2 } },
  ...{ in_flight: 0, capabilities: [], repos: [], endpoints: [endpoint()], outbox: 0, fault: "", journal_lost: "" },
  ...more,
});
const names = (hosts) => hosts.map((each) => each.host);
const ALL = { text: "", state: "", sort: "problems" };

test("hosts with a problem come first, the worst before all", () => {
  const hosts = [
    host("a"),
    host("b", { state: "draining" }),
    host("c", { endpoints: [endpoint({ up: false })] }),
    host("d", { fault: "its disk is full" }),
  ];
  assert.deepEqual(names(fleetOf(hosts, ALL)), ["d", "c", "b", "a"]);
  assert.deepEqual(names(fleetOf(hosts, { ...ALL, state: "problems", sort: "name" })), ["b", "c", "d"]);
  assert.deepEqual(troubles(hosts[3]), ["takes nothing: its disk is full"]);
});

test("a host is found by its name, and by what it has", () => {
  const hosts = [host("a", { repos: ["shop"] }), host("b", { endpoints: [endpoint({ models: ["qwen3"] })] })];
  assert.deepEqual(names(fleetOf(hosts, { ...ALL, text: "SHOP" })), ["a"]);
  assert.deepEqual(names(fleetOf(hosts, { ...ALL, text: "qwen" })), ["b"]);
  assert.deepEqual(names(fleetOf(hosts, { ...ALL, state: "draining" })), []);
});

test("the busiest is the one with the most of its slots in use", () => {
  const hosts = [host("a", { in_flight: 2 }), host("b", { in_flight: 1, slots: {}, endpoints: [] }), host("c")];
  assert.equal(slotsOf(hosts[0]), 4);
  assert.deepEqual(names(fleetOf(hosts, { ...ALL, sort: "busy" })), ["b", "a", "c"]);
});
