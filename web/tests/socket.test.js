import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

let sockets = [];

class FakeSocket {
  static OPEN = 1;
  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
    this.readyState = 0;
    this.sent = [];
    sockets.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  open() {
    this.readyState = 1;
    this.onopen();
  }
  close() {
    this.readyState = 3;
    this.onclose();
  }
  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
}

globalThis.WebSocket = FakeSocket;
globalThis.location = new URL("https://example.org/fleet/?x=1#/now");
const asked = [];
globalThis.fetch = async (path, { headers }) => {
  asked.push([path, headers.Authorization]);
  return { ok: false, status: 401, json: async () => ({ error: "a token is needed" }) };
};
const { Connection } = await import("../ui/socket.js");
const { session } = await import("../ui/session.js");

function connected() {
  const connection = new Connection();
  connection.connect();
  sockets.at(-1).open();
  return [connection, sockets.at(-1)];
}

beforeEach(() => {
  sockets = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
});

test("a page served over TLS speaks over TLS, below the path that it is served at", () => {
  connected();
  assert.equal(sockets[0].url, "wss://example.org/fleet/ws");
  assert.deepEqual(sockets[0].protocols, ["agentcom"]);
});

test("the token is said with the connection, whatever its characters are, and not in the address", () => {
  session.token = "t/o(k)=n";
  connected();
  assert.deepEqual(sockets[0].protocols, ["agentcom", "token.t%2Fo%28k%29%3Dn"]);
  assert.equal(sockets[0].url, "wss://example.org/fleet/ws");
  session.token = "";
});

test("where no connection opens, the server is asked why, and a refused token is told", async () => {
  let told = 0;
  session.changed = () => (told += 1);
  session.token = "old";
  asked.length = 0;
  new Connection().connect();
  sockets.at(-1).onclose();
  await new Promise(setImmediate);
  assert.deepEqual(asked, [["/fleet/api/v1/me", "Bearer old"]]);
  assert.equal(told, 1);
  session.token = "";
  session.changed = () => {};
});

test("whoever lets go of a connection is not connected again", () => {
  const [connection, socket] = connected();
  connection.disconnect();
  assert.equal(socket.readyState, 3);
  assert.equal(connection.open, false);
  mock.timers.tick(60_000);
  assert.equal(sockets.length, 1);
});

test("what is watched before there is a connection is asked for when there is", () => {
  const connection = new Connection();
  connection.connect();
  connection.subscribe("fleet", {}, () => {}, null);
  assert.deepEqual(sockets[0].sent, []);
  sockets[0].open();
  assert.deepEqual(sockets[0].sent, [{ op: "subscribe", id: "s1", topic: "fleet", params: {} }]);
});

test("after a break every subscription says how far it is", () => {
  const [connection, socket] = connected();
  const fleet = connection.subscribe("fleet", {}, () => {}, null);
  socket.say({ type: "snapshot", id: fleet.id, topic: "fleet", seq: 7, data: { hosts: [] } });
  socket.close();
  assert.equal(connection.open, false);
  mock.timers.tick(250);
  sockets[1].open();
  assert.equal(sockets[1].sent[0].since, 7);
});

test("the waits between attempts to connect double, up to five seconds", () => {
  new Connection().connect();
  for (const wait of [250, 500, 1000, 2000, 4000, 5000, 5000]) {
    const before = sockets.length;
    sockets.at(-1).onclose();
    mock.timers.tick(wait - 1);
    assert.equal(sockets.length, before);
    mock.timers.tick(1);
    assert.equal(sockets.length, before + 1);
  }
});

test("a snapshot is told at once, changes that come close together are told together", () => {
  const [connection, socket] = connected();
  let told = 0;
  const { id } = connection.subscribe("tasks", {}, () => (told += 1), null);
  socket.say({ type: "snapshot", id, seq: 1, data: { total: 1, states: {} } });
  assert.equal(told, 1);
  socket.say({ type: "change", id, seq: 2, data: { total: 2 } });
  socket.say({ type: "change", id, seq: 3, data: { total: 3 } });
  assert.equal(told, 1);
  mock.timers.tick(30);
  assert.equal(told, 2);
});

test("a change replaces its sections, and the others stay the objects they were", () => {
  const [connection, socket] = connected();
  const subscription = connection.subscribe("tasks", {}, () => {}, null);
  socket.say({ type: "snapshot", id: subscription.id, seq: 1, data: { rows: [1], states: { waiting: 1 } } });
  const before = subscription.data;
  socket.say({ type: "change", id: subscription.id, seq: 2, data: { states: { waiting: 2 } } });
  assert.notEqual(subscription.data, before);
  assert.equal(subscription.data.rows, before.rows);
  assert.deepEqual(subscription.data.states, { waiting: 2 });
});

test("a refusal is kept until there is an answer", () => {
  const [connection, socket] = connected();
  const subscription = connection.subscribe("task", { task_id: "t" }, () => {}, null);
  socket.say({ type: "refused", id: subscription.id, error: { error: "no such task" } });
  assert.equal(subscription.error.error, "no such task");
  socket.say({ type: "snapshot", id: subscription.id, seq: 1, data: {} });
  assert.equal(subscription.error, null);
});

test("the log's tail grows without repeating itself", () => {
  const [connection, socket] = connected();
  const subscription = connection.subscribe("events", { subject: "agentcom.evt.>" }, () => {}, null);
  const seqs = () => subscription.data.events.map((each) => each.seq);
  socket.say({ type: "snapshot", id: subscription.id, seq: 2, data: { events: [{ seq: 1 }, { seq: 2 }] } });
  socket.say({ type: "change", id: subscription.id, seq: 4, data: { events: [{ seq: 2 }, { seq: 3 }, { seq: 4 }] } });
  assert.deepEqual(seqs(), [1, 2, 3, 4]);
});

test("a task's output reaches whoever watches it, each piece once, and after a break only what is new", () => {
  const [connection, socket] = connected();
  const pieces = [];
  connection.subscribe(
    "task",
    { task_id: "t" },
    () => {},
    (piece) => pieces.push(piece.n),
  );
  const piece = (n, task_id = "t") => ({ type: "execution_event", task_id, route: "r1", n });
  for (const each of [piece(0), piece(1), piece(1), piece(0), piece(2), piece(3, "another")]) socket.say(each);
  assert.deepEqual(pieces, [0, 1, 2]);
  socket.close();
  mock.timers.tick(250);
  sockets[1].open();
  assert.deepEqual(sockets[1].sent[0].params, { task_id: "t", after: { r1: 2 } });
});

test("whoever no longer watches is told nothing", () => {
  const [connection, socket] = connected();
  let told = 0;
  const subscription = connection.subscribe("fleet", {}, () => (told += 1), null);
  connection.unsubscribe(subscription);
  socket.say({ type: "snapshot", id: subscription.id, seq: 1, data: {} });
  assert.equal(told, 0);
  assert.deepEqual(socket.sent.at(-1), { op: "unsubscribe", id: subscription.id });
});
