// The questions to Checkrein and what follows from its answers. Whatever goes wrong (Checkrein away, an answer that
// is none, an error in here), the call is blocked.
import { canonical, request, unwrap } from "./protocol.js";

const VERSION = "1.0.0";
const PREFIX = "checkrein: ";
const UNAVAILABLE = "Checkrein cannot be reached, so nothing runs";
const DEFAULTS = { protect: [], names: {}, decideMs: 5000, reviewMs: 540_000, heartbeatMs: 5000 };
// how long one question about an approval is held open
const WAIT_S = 20;
const PAUSE_MS = 250;
// calls that were let through and have not come back; more than this are forgotten, and then decided again
const MAX_OPEN = 10_000;

class Refusal extends Error {}

export class Governor {
  constructor(config, { fetch = globalThis.fetch, now = Date.now } = {}) {
    this.config = { ...DEFAULTS, ...config };
    this.fetch = fetch;
    this.now = now;
    // what the first tier let through, for the second; and what a Tool Search call let through, for the tool itself
    this.passed = new Map();
    this.wrapped = new Map();
    // what is told of a call when it has ended
    this.open = new Map();
  }

  // The first tier: `{block, blockReason}`, `{params}`, or nothing for "run it as it is".
  async decide(event, ctx) {
    const call = unwrap(event, this.config.names);
    const key = keyOf(event, ctx);
    const outer = call.parent && keyOf({ ...event, toolCallId: call.parent }, ctx);
    if (outer && this.wrapped.get(outer) === print(call)) {
      this.wrapped.delete(outer);
      this.keep(this.passed, key, print(call));
      this.keep(this.open, key, this.open.get(outer));
      this.open.delete(outer);
      return undefined;
    }
    let verdict;
    try {
      verdict = await this.ask(call, key, event, ctx);
    } catch (error) {
      const reason = error instanceof Refusal ? error.message : UNAVAILABLE;
      return { block: true, blockReason: PREFIX + reason };
    }
    const runs = unwrap(verdict ? { ...event, params: verdict.params } : event, this.config.names);
    this.keep(this.passed, key, print(runs));
    if (call.wraps) this.keep(this.wrapped, key, print(runs));
    return verdict;
  }

  // The second tier.
  async check(event, ctx) {
    const key = keyOf(event, ctx);
    const passed = this.passed.get(key);
    this.passed.delete(key);
    if (passed !== undefined && passed === print(unwrap(event, this.config.names))) return undefined;
    const verdict = await this.decide(event, ctx);
    this.passed.delete(key);
    return verdict;
  }

  async ask(call, key, event, ctx) {
    const id = event.toolCallId ?? ctx.toolCallId ?? "";
    const body = request(call, id, event, ctx, this.config.gateway);
    let answer = await this.evaluate(body, ctx.abortSignal);
    this.keep(this.open, key, { call: id, run: body.context.openclaw.run });
    const text = canonical(call.input);
    if (this.config.protect.some((path) => text.includes(path))) {
      throw new Refusal("this gateway's own configuration and state are not for tools");
    }
    if (answer.context.outcome === "require_review") answer = await this.review(answer, body, ctx.abortSignal);
    const { context } = answer;
    if (answer.decision !== true) throw new Refusal(said(context));
    if (context.outcome === "allow") return undefined;
    // a redaction is a rewrite of the arguments; Checkrein says what they become
    if (context.outcome !== "allow_with_redaction" || !isObject(context.input)) {
      throw new Refusal("the decision carries a duty that cannot be carried out here");
    }
    return { params: call.wrap(context.input) };
  }

  // Hold the call until people have answered, or the hook's time is over; then ask again.
  async review(first, body, signal) {
    const id = first.context.access_request?.id;
    if (!id) return first;
    const end = this.now() + this.config.reviewMs;
    for (let state = "pending"; state === "pending"; ) {
      const leftMs = end - this.now();
      if (leftMs <= 0) throw new Refusal(`${said(first.context)}; nobody decided approval ${id} in time`);
      const wait = Math.max(1, Math.min(WAIT_S, Math.floor(leftMs / 1000)));
      const path = `/api/v1/openclaw/approval?${new URLSearchParams({ id, wait: String(wait) })}`;
      ({ state } = await this.call(path, null, wait * 1000 + this.config.decideMs, signal));
      if (state !== "pending" && state !== "approved") throw new Refusal(`approval ${id} is ${state}`);
      // a Checkrein that is about to stop holds nothing
      if (state === "pending") await pause(PAUSE_MS);
    }
    return this.evaluate(body, signal);
  }

  async evaluate(body, signal) {
    const answer = await this.call("/access/v1/evaluation", body, this.config.decideMs, signal);
    if (typeof answer?.decision !== "boolean" || typeof answer.context?.outcome !== "string") {
      throw new Error("that was no decision");
    }
    return answer;
  }

  // What became of a call. The gateway does not wait for it, and nothing hangs on it.
  async report(event, ctx) {
    const key = keyOf(event, ctx);
    const open = this.open.get(key);
    this.open.delete(key);
    this.wrapped.delete(key);
    if (!open) return;
    const blocked = event.result?.details?.status === "blocked";
    const status = blocked ? "blocked" : event.error ? "failed" : "ok";
    const duration_ms = Math.max(0, Math.round(event.durationMs ?? 0));
    await this.tell("/api/v1/openclaw/result", { ...open, status, duration_ms });
  }

  async beat() {
    await this.tell("/api/v1/openclaw/heartbeat", { plugin: VERSION, interval_ms: this.config.heartbeatMs });
  }

  async tell(path, body) {
    await this.call(path, { gateway: this.config.gateway, ...body }, this.config.decideMs).catch(() => undefined);
  }

  async call(path, body, timeoutMs, signal) {
    const timeout = AbortSignal.timeout(timeoutMs);
    const reply = await this.fetch(this.config.url.replace(/\/+$/, "") + path, {
      method: body === null ? "GET" : "POST",
      headers: { authorization: `Bearer ${this.config.key}`, "content-type": "application/json" },
      body: body === null ? undefined : JSON.stringify(body),
      redirect: "error",
      signal: signal ? AbortSignal.any([timeout, signal]) : timeout,
    });
    if (reply.status === 403) throw new Refusal("Checkrein refuses this gateway");
    if (reply.status !== 200) {
      await reply.body?.cancel();
      throw new Error(`Checkrein answered ${reply.status}`);
    }
    return reply.json();
  }

  keep(map, key, value) {
    if (value === undefined) return;
    map.set(key, value);
    if (map.size > MAX_OPEN) map.delete(map.keys().next().value);
  }
}

// A model chooses the ids of its calls, so an id alone says nothing: it counts within its run and session.
function keyOf(event, ctx) {
  return canonical([event.runId ?? ctx.runId ?? "", ctx.sessionKey ?? "", event.toolCallId ?? ctx.toolCallId ?? ""]);
}

const print = (call) => `${call.tool} ${canonical(call.input)}`;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function said(context) {
  const reasons = Array.isArray(context.reasons) ? context.reasons.map(String) : [];
  const advice = Array.isArray(context.advice) ? context.advice.map((item) => `instead: ${item?.text}`) : [];
  return [...reasons, ...advice].join("; ") || "policy does not allow it";
}
