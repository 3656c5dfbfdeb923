// The websocket: subscriptions that outlive it. After a break every subscription says how
// far it is, and is told what it missed, or gets a fresh snapshot.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

const FIRST_WAIT = 250;
const LONGEST_WAIT = 5000;
const TOGETHER = 30; // ms: messages that come close together are shown together

class Connection {
  constructor() {
    this.subscriptions = new Map();
    this.listeners = new Set();
    this.open = false;
    this.since = Date.now(); // when `open` last changed
    this.heardAt = Date.now();
    this.count = 0;
    this.wait = FIRST_WAIT;
    this.changed = new Set();
    this.timer = null;
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = (this.socket = new WebSocket(`${scheme}://${location.host}/ws`));
    socket.onopen = () => {
      this.wait = FIRST_WAIT;
      this.turn(true);
      for (const each of this.subscriptions.values()) this.ask(each);
    };
    socket.onmessage = (message) => this.take(JSON.parse(message.data));
    socket.onclose = () => {
      this.turn(false);
      setTimeout(() => this.connect(), this.wait);
      this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
    };
  }

  turn(open) {
    if (this.open !== open) this.since = Date.now();
    this.open = open;
    for (const tell of this.listeners) tell();
  }

  say(object) {
    if (this.open && this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(object));
  }

  ask(subscription) {
    const { id, topic, params, seq, after } = subscription;
    const said = { op: "subscribe", id, topic, params: topic === "task" ? { ...params, after } : params };
    if (subscription.data) said.since = seq;
    this.say(said);
  }

  subscribe(topic, params, tell, output) {
    const subscription = {
      id: `s${++this.count}`, topic, params, tell, output,
      data: null, seq: 0, error: null, after: {},
    };
    this.subscriptions.set(subscription.id, subscription);
    this.ask(subscription);
    return subscription;
  }

  unsubscribe(subscription) {
    this.subscriptions.delete(subscription.id);
    this.changed.delete(subscription);
    this.say({ op: "unsubscribe", id: subscription.id });
  }

  take(message) {
    this.heardAt = Date.now();
    if (message.type === "execution_event" || message.type === "gap") return this.output(message);
    const subscription = this.subscriptions.get(message.id);
    if (!subscription) return;
    if (message.type === "refused") {
      subscription.error = message.error;
    } else {
      subscription.error = null;
      subscription.seq = message.seq;
      if (subscription.topic === "events") this.events(subscription, message);
      else if (message.type === "snapshot") subscription.data = message.data;
      else subscription.data = { ...subscription.data, ...message.data };
    }
    this.changed.add(subscription);
    if (message.type === "snapshot") return this.flush();
    this.timer ??= setTimeout(() => this.flush(), TOGETHER);
  }

  events(subscription, message) {
    const { events } = message.data;
    if (message.type === "snapshot") subscription.data = { events };
    else {
      const last = subscription.data.events.at(-1)?.seq ?? 0;
      const fresh = events.filter((each) => each.seq > last);
      subscription.data = { events: [...subscription.data.events, ...fresh].slice(-2000) };
    }
  }

  output(message) {
    for (const each of this.subscriptions.values()) {
      if (each.params?.task_id !== message.task_id || !each.output) continue;
      if (message.type === "execution_event") {
        if (message.n <= (each.after[message.route] ?? -1)) continue;
        each.after[message.route] = message.n;
      }
      each.output(message);
    }
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    const changed = [...this.changed];
    this.changed.clear();
    for (const each of changed) each.tell();
  }
}

export const connection = new Connection();

// What a topic says now: {data, seq, error, key}; `key` spells the parameters it is said
// for, which may still be those of the render before. `output` receives a task's live output.
export function useTopic(topic, params = {}, output = null) {
  const [, render] = useState(0);
  const current = useRef(null);
  const key = JSON.stringify(params);
  useLayoutEffect(() => {
    if (!topic) return undefined;
    const subscription = connection.subscribe(topic, params, () => render((n) => n + 1), output);
    subscription.key = key;
    current.current = subscription;
    render((n) => n + 1);
    return () => {
      current.current = null;
      connection.unsubscribe(subscription);
    };
  }, [topic, key]);
  const { data, seq, error, key: known } = current.current ?? {};
  return { data: data ?? null, seq: seq ?? 0, error: error ?? null, key: known ?? "" };
}

// Render again when the connection comes or goes.
export function useConnection() {
  const [, render] = useState(0);
  useEffect(() => {
    const tell = () => render((n) => n + 1);
    connection.listeners.add(tell);
    return () => connection.listeners.delete(tell);
  }, []);
  return connection;
}

// The time, every `every` ms.
export function useNow(every = 1000) {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}
