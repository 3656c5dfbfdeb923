// The websocket: subscriptions that outlive it. After a break every subscription says how
// far it is, and is told what it missed, or gets a fresh snapshot.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { get } from "./api.js";
import { BASE, protocols } from "./session.js";

const FIRST_WAIT = 250;
const LONGEST_WAIT = 5000;
const TOGETHER = 30; // ms: messages that come close together are shown together

/** @import { Fault, Message, Output, Topics } from "./topics.d.ts" */

/**
 * What a page watches. `data` holds the sections as they are now: a new object with every
 * message, in which those that did not change are the same objects as before. `key`
 * spells the parameters it was asked with, `after` says how far a task's output came.
 * @typedef {{
 *   id: string, topic: string, params: Record<string, any>, key: string,
 *   tell: () => void, output: ((message: Output) => void) | null,
 *   data: any, seq: number, position: string, error: Fault | null, after: Record<string, number>,
 * }} Subscription
 */

export class Connection {
  constructor() {
    /** @type {Map<string, Subscription>} by id */
    this.subscriptions = new Map();
    /** @type {Set<() => void>} told when the connection comes or goes */
    this.listeners = new Set();
    /** @type {WebSocket | null} */
    this.socket = null;
    this.open = false;
    this.since = Date.now(); // when `open` last changed
    this.heardAt = Date.now();
    this.count = 0;
    this.wait = FIRST_WAIT;
    /** @type {Set<Subscription>} whose pages are told with the next flush */
    this.changed = new Set();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} until it is tried again */
    this.again = undefined;
  }

  connect() {
    this.disconnect();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${BASE}ws`, protocols());
    this.socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.wait = FIRST_WAIT;
      this.turn(true);
      for (const each of this.subscriptions.values()) this.ask(each);
    };
    socket.onmessage = (message) => this.take(JSON.parse(message.data));
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.turn(false);
      this.again = setTimeout(() => this.connect(), this.wait);
      this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
      // A browser does not say why there is no connection; an answer does.
      if (!opened) get("/me").catch(() => {});
    };
  }

  /** Let go of the connection, and try no more. */
  disconnect() {
    clearTimeout(this.again);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    if (this.open) this.turn(false);
  }

  /** @param {boolean} open */
  turn(open) {
    if (this.open !== open) this.since = Date.now();
    this.open = open;
    for (const tell of this.listeners) tell();
  }

  /** @param {Record<string, any>} object */
  say(object) {
    if (this.open && this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(object));
  }

  /** @param {Subscription} subscription */
  ask(subscription) {
    const { id, topic, params, seq, position, after } = subscription;
    /** @type {Record<string, any>} */
    const request = { op: "subscribe", id, topic, params: topic === "task" ? { ...params, after } : params };
    if (subscription.data) Object.assign(request, { since: seq, position });
    this.say(request);
  }

  /**
   * @param {string} topic
   * @param {Record<string, any>} params
   * @param {() => void} tell called when there is something new
   * @param {((message: Output) => void) | null} output gets a task's live output
   * @returns {Subscription}
   */
  subscribe(topic, params, tell, output) {
    const subscription = {
      key: JSON.stringify(params),
      id: `s${++this.count}`,
      topic,
      params,
      tell,
      output,
      data: null,
      seq: 0,
      position: "",
      error: null,
      after: {},
    };
    this.subscriptions.set(subscription.id, subscription);
    this.ask(subscription);
    return subscription;
  }

  /** @param {Subscription} subscription */
  unsubscribe(subscription) {
    this.subscriptions.delete(subscription.id);
    this.changed.delete(subscription);
    this.say({ op: "unsubscribe", id: subscription.id });
  }

  /** @param {Message} message */
  take(message) {
    this.heardAt = Date.now();
    if (!("id" in message)) {
      this.output(message);
      return;
    }
    const subscription = this.subscriptions.get(message.id);
    if (!subscription) return;
    if (message.type === "refused") {
      subscription.error = message.error;
    } else {
      subscription.error = null;
      subscription.seq = message.seq;
      subscription.position = message.position;
      if (subscription.topic === "events") this.events(subscription, message);
      else if (message.type === "snapshot") subscription.data = message.data;
      else subscription.data = { ...subscription.data, ...message.data };
    }
    this.changed.add(subscription);
    if (message.type === "snapshot") this.flush();
    else this.timer ??= setTimeout(() => this.flush(), TOGETHER);
  }

  /**
   * The log's tail: what comes is added to what is there.
   * @param {Subscription} subscription
   * @param {{ type: string, data: Record<string, any> }} message
   */
  events(subscription, message) {
    const { events } = message.data;
    if (message.type === "snapshot") subscription.data = { events };
    else {
      const last = subscription.data.events.at(-1)?.seq ?? 0;
      const fresh = events.filter((/** @type {{ seq: number }} */ each) => each.seq > last);
      subscription.data = { events: [...subscription.data.events, ...fresh].slice(-2000) };
    }
  }

  /** @param {Output} message */
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
    this.timer = undefined;
    const changed = [...this.changed];
    this.changed.clear();
    for (const each of changed) each.tell();
  }
}

export const connection = new Connection();

/**
 * What a topic says now; `key` spells the parameters it is said for, which may still be
 * those of the render before. `output` receives a task's live output.
 * @template {keyof Topics} T
 * @param {T | null} topic
 * @param {Record<string, any>} [params]
 * @param {((message: Output) => void) | null} [output]
 * @returns {{ data: Topics[T] | null, seq: number, error: Fault | null, key: string }}
 */
export function useTopic(topic, params = {}, output = null) {
  const [, render] = useState(0);
  /** @type {import("preact/hooks").MutableRef<Subscription | null>} */
  const current = useRef(null);
  const key = JSON.stringify(params);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `key` spells params; output is the first render's
  useLayoutEffect(() => {
    if (!topic) return undefined;
    const subscription = connection.subscribe(topic, params, () => render((n) => n + 1), output);
    current.current = subscription;
    render((n) => n + 1);
    return () => {
      current.current = null;
      connection.unsubscribe(subscription);
    };
  }, [topic, key]);
  const { data, seq, error, key: answered } = current.current ?? { data: null, seq: 0, error: null, key: "" };
  return { data, seq, error, key: answered };
}

/** Render again when the connection comes or goes. */
export function useConnection() {
  const [, render] = useState(0);
  useEffect(() => {
    const tell = () => render((n) => n + 1);
    connection.listeners.add(tell);
    return () => {
      connection.listeners.delete(tell);
    };
  }, []);
  return connection;
}

/** The time, every `every` ms. */
export function useNow(every = 1000) {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}
